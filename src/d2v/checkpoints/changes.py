"""An encoder that was built with other arguments than its checkpoint's (``encoder_changes``)."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from d2v.checkpoints.folder import StateDict
from d2v.checkpoints.recipe import part_class
from d2v.errors import UserError
from d2v.model.encoder import Encoder
from d2v.model.front_end import FrontEnd
from d2v.nn.positional import PositionTable, RelativePositionBias
from d2v.nn.transformer import Transformer

_OUTPUT_NORM = "trunk.output_norm."


def changed_recipe(recipe: Mapping[str, Any], changes: Mapping[str, Any], allow: Iterable[str] = ()) -> dict[str, Any]:
    """The recipe of an encoder with other arguments, each of which is one of its front end or of its trunk.

    Raises:
        UserError: Neither has such an argument.
    """
    front, trunk = recipe["front"], dict(recipe["trunk"])
    front_args = dict(front.get("init_args", {}))
    front_class = part_class(front, FrontEnd, allow)
    of_front = list(inspect.signature(front_class).parameters)[1:]  # the first is the trunk
    of_trunk = list(inspect.signature(Transformer).parameters)
    for name, value in changes.items():
        if name in of_front:
            front_args[name] = value
        elif name in of_trunk:
            trunk[name] = value
        else:
            known = f"{front_class.__name__} has {', '.join(of_front)}; the trunk {', '.join(of_trunk)}"
            raise UserError(f"{name}={value!r}: the encoder has no such argument; {known}")
    return {"front": {**front, "init_args": front_args}, "trunk": trunk}


def adapt_weights(weights: StateDict, original: Encoder, changed: Encoder, changes: Mapping[str, Any]) -> StateDict:
    """Position and bias tables at another size of pictures are interpolated, as they would be in each forward pass; the
    output norm that is to go is left out. Everything else stays.

    Args:
        weights: Of an encoder.
        original: That encoder; its tables are overwritten.
        changed: The same with other arguments.
        changes: These.
    """
    if changes.get("output_norm") is False:
        weights = {name: value for name, value in weights.items() if not name.startswith(_OUTPUT_NORM)}
    if "image_size" not in changes:
        return weights
    weights = dict(weights)
    for name, module in changed.named_modules():
        table = f"{name}.table"
        if isinstance(module, (PositionTable, RelativePositionBias)) and table in weights:
            before: Any = original.get_submodule(name)
            before.get_parameter("table").data = weights[table]
            weights[table] = before.table_for(module.grid).detach().clone()
    return weights

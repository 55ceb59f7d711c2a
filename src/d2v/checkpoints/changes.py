"""Weights of an encoder for one that was built with other arguments (``encoder_changes``)."""

from collections.abc import Mapping
from typing import Any

from d2v.checkpoints.layout import StateDict
from d2v.checkpoints.recipe import build_encoder
from d2v.model.encoder import Encoder
from d2v.nn.positional import PositionTable, RelativePositionBias

_OUTPUT_NORM = "trunk.output_norm."


def adapt_weights(
    weights: StateDict, recipe: dict[str, Any], changed: Encoder, changes: Mapping[str, Any]
) -> StateDict:
    """Position and bias tables at another size of pictures are interpolated, as they would be in each forward pass; the
    output norm that is to go is left out. Everything else stays.

    Args:
        weights: Of an encoder.
        recipe: Of that encoder.
        changed: The same with other arguments.
        changes: These.
    """
    if changes.get("output_norm") is False:
        weights = {name: value for name, value in weights.items() if not name.startswith(_OUTPUT_NORM)}
    if "image_size" not in changes:
        return weights
    original, weights = build_encoder(recipe), dict(weights)
    for name, module in changed.named_modules():
        table = f"{name}.table"
        if isinstance(module, (PositionTable, RelativePositionBias)) and table in weights:
            before: Any = original.get_submodule(name)
            before.get_parameter("table").data = weights[table]
            weights[table] = before.table_for(module.grid).detach().clone()
    return weights

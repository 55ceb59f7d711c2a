"""From the plain values of a recipe to the parts of the method, and back.

A recipe comes with a checkpoint, which anybody may have made: it can name only d2v's own parts of the method, and parts
in packages that the user allows (``allowed_packages.py``).
"""

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from d2v.allowed_packages import is_allowed
from d2v.errors import UserError
from d2v.model.data2vec import Data2Vec
from d2v.model.encoder import Encoder
from d2v.model.front_end import FrontEnd
from d2v.model.heads import Head
from d2v.model.losses import ClsLoss, RegressionLoss
from d2v.model.masking import Masking
from d2v.model.targets import TopKTargets
from d2v.model.task import Task
from d2v.nn.transformer import Transformer
from d2v.nn.trial import on_trial

# Without training and fine-tuning, whose modules read other files when they are built.
_PARTS = ("d2v.model.", "d2v.nn.", "d2v.modalities.")


def node(class_path: str, **init_args: Any) -> dict[str, Any]:
    """A part as a recipe writes it: ``{"class_path": ..., "init_args": {...}}``."""
    return {"class_path": class_path, "init_args": init_args}


REFUSALS = (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError, MemoryError)
"""What a constructor raises when it is given values from a damaged file."""


def build(recipe: Any, kind: Any, *args: Any, allow: Iterable[str] = ()) -> Any:
    """Build a part from its node.

    Args:
        recipe: ``{"class_path": ..., "init_args": {...}}``.
        kind: What the part must be: a class, which may be abstract, or several.
        args: First arguments, which the caller knows, such as the width of a head.
        allow: Packages outside d2v that may be named in addition to those always allowed.

    Raises:
        UserError: The class is not allowed, is not there, is of another kind, or refuses its arguments.
    """
    part = part_class(recipe, kind, allow)
    try:
        return part(*args, **recipe.get("init_args", {}))
    except REFUSALS as error:
        raise UserError(f"class_path {recipe['class_path']!r}: {error}") from error


def part_class(recipe: Any, kind: Any, allow: Iterable[str] = ()) -> Any:
    """The class that a node names; nothing is imported before its package is known to be allowed.

    Raises:
        UserError: It is not allowed, is not there, or is of another kind.
    """
    if not isinstance(recipe, dict) or not isinstance(recipe.get("class_path"), str):
        raise UserError(f"a part of the recipe is {recipe!r:.100}, where a class_path and init_args belong")
    class_path = recipe["class_path"]
    module, _, name = class_path.rpartition(".")
    package = module.partition(".")[0]
    if package == "d2v":
        if not module.startswith(_PARTS):
            raise UserError(f"class_path {class_path!r}: no part of the method")
    elif not is_allowed(package, allow):
        raise UserError(
            f"class_path {class_path!r}: the checkpoint needs a class of the package {package!r}, whose code would "
            f"run. If you trust that package, allow it: --allow {package} on the command line, or "
            f"d2v.load(path, allow=[{package!r}])"
        )
    try:
        part = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"class_path {class_path!r}: there is no such class here ({error}). Install its package, or put the "
            "folder that holds it on PYTHONPATH"
        ) from error
    # What a module merely imports is not its own: allowing a package allows nothing that it uses.
    if not isinstance(part, type) or part.__module__ != module or not issubclass(part, nn.Module):
        raise UserError(f"class_path {class_path!r}: no part of the method")
    if not issubclass(part, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(each.__name__ for each in kinds)
        raise UserError(f"class_path {class_path!r}: is not a {names}, which belongs there")
    return part


def checked_recipe(recipe: Any) -> dict[str, Any]:
    """The recipe of an encoder, ``{"front": {"class_path", "init_args"}, "trunk": {...}}``, if it is one.

    Raises:
        UserError: It is not.
    """
    if not isinstance(recipe, dict) or recipe.keys() != {"front", "trunk"} or not isinstance(recipe["trunk"], dict):
        raise UserError(f"the recipe of the encoder is {recipe!r:.100}, where front and trunk belong")
    front = recipe["front"]
    if not isinstance(front, dict) or not isinstance(front.get("init_args", {}), dict):
        raise UserError(f"the front of the encoder is {front!r:.100}, where a class_path and init_args belong")
    return recipe


def build_encoder(recipe: Any, allow: Iterable[str] = ()) -> Encoder:
    """Build an encoder from its recipe.

    Raises:
        UserError: Its front end is not allowed, or a part refuses its arguments.
    """
    recipe = checked_recipe(recipe)

    def built() -> Encoder:
        trunk = Transformer(**recipe["trunk"])
        return Encoder(lambda trunk: build(recipe["front"], FrontEnd, trunk, allow=allow), trunk)

    try:
        with on_trial():
            built()
        return built()
    except UserError:
        raise
    except REFUSALS as error:
        raise UserError(f"the trunk of the encoder cannot be built: {error}") from error


def build_method(method: Mapping[str, Any], allow: Iterable[str] = ()) -> Data2Vec:
    """Build the method from plain values, as ``config.json`` holds them.

    Raises:
        UserError: A part is missing, is not allowed, or refuses its arguments.
    """
    cls_loss = method.get("cls_loss")

    def head(width: int) -> Head:
        with on_trial():
            build(method["head"], Head, width, allow=allow)
        return build(method["head"], Head, width, allow=allow)

    try:
        student = build_encoder(method["student"], allow)
        task = Task(
            student,
            build(method["masking"], Masking, allow=allow),
            build(method["targets"], TopKTargets, allow=allow),
            head=head,
            loss=build(method["loss"], RegressionLoss, allow=allow),
            cls_loss=build(cls_loss, ClsLoss, allow=allow) if cls_loss else None,
            num_masks=method["num_masks"],
            shared_with_teacher=method["shared_with_teacher"],
        )
        return Data2Vec(student, task)
    except KeyError as error:
        raise UserError(f"the recipe of the method has no {error}") from error
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"the recipe of the method cannot be built: {error}") from error

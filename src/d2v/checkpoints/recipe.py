"""From the plain values of a recipe to the parts of the method, and back."""

import importlib
from typing import Any

from torch import nn

from d2v.errors import UserError
from d2v.model.encoder import Encoder
from d2v.nn.transformer import Transformer

# Not of training or fine-tuning, whose modules read other files when they are built.
_PARTS = ("d2v.model.", "d2v.nn.", "d2v.modalities.")


def node(class_path: str, **init_args: Any) -> dict[str, Any]:
    """A part as a recipe writes it: ``{"class_path": ..., "init_args": {...}}``."""
    return {"class_path": class_path, "init_args": init_args}


def build(recipe: dict[str, Any], *args: Any) -> Any:
    """Build a part from its node.

    Only parts of the method (``nn.Module`` of model, nn and modalities) can be named, so a recipe from elsewhere cannot
    choose what is called: not even what a file of ours happens to import.

    Args:
        recipe: ``{"class_path": ..., "init_args": {...}}``.
        args: Values that the caller knows, such as the width of a head; they come first.

    Raises:
        UserError: The class is not one of ours, is not there, or refuses its arguments.
    """
    part = part_class(recipe)
    try:
        return part(*args, **recipe.get("init_args", {}))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"class_path {recipe['class_path']!r}: {error}") from error


def build_encoder(recipe: dict[str, Any]) -> Encoder:
    """Build an encoder from its recipe, ``{"front": node, "trunk": arguments}``.

    Raises:
        UserError: The front end is none of ours, or one of the two refuses its arguments.
    """
    try:
        front, trunk = recipe["front"], Transformer(**recipe["trunk"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the recipe of the encoder cannot be built: {error}") from error
    return Encoder(lambda of_trunk: build(front, of_trunk), trunk)


def part_class(recipe: dict[str, Any]) -> type[nn.Module]:
    """The class that a node names.

    Raises:
        UserError: It is not one of ours, or is not there.
    """
    if not isinstance(recipe, dict) or not isinstance(recipe.get("class_path"), str):
        raise UserError(f"a part of the recipe is {recipe!r:.100}, where a class_path and init_args belong")
    class_path = recipe["class_path"]
    module, _, name = class_path.rpartition(".")
    if not module.startswith("d2v."):
        raise UserError(f"class_path {class_path!r}: a checkpoint's recipe can only name classes of d2v")
    try:
        part = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"class_path {class_path!r}: this version of d2v has no such class") from error
    is_part = isinstance(part, type) and issubclass(part, nn.Module) and part.__module__ == module
    if not is_part or not module.startswith(_PARTS):
        raise UserError(f"class_path {class_path!r}: no part of the method")
    return part

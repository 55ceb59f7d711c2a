"""From the plain values of a recipe to the parts of the method, and back."""

import importlib
from typing import Any

from d2v.errors import UserError


def node(class_path: str, **init_args: Any) -> dict[str, Any]:
    """A part as a recipe writes it: ``{"class_path": ..., "init_args": {...}}``."""
    return {"class_path": class_path, "init_args": init_args}


def build(recipe: dict[str, Any], *args: Any) -> Any:
    """Build a part from its node.

    Only classes of this package can be named, so a recipe from elsewhere cannot choose what is called.

    Args:
        recipe: ``{"class_path": ..., "init_args": {...}}``.
        args: Values that the caller knows, such as the width of a head; they come first.

    Raises:
        UserError: The class is not one of ours, is not there, or refuses its arguments.
    """
    class_path = recipe.get("class_path", "")
    module, _, name = class_path.rpartition(".")
    if not module.startswith("d2v."):
        raise UserError(f"class_path {class_path!r}: a checkpoint's recipe can only name classes of d2v")
    try:
        return getattr(importlib.import_module(module), name)(*args, **recipe.get("init_args", {}))
    except (ImportError, AttributeError) as error:
        raise UserError(f"class_path {class_path!r}: this version of d2v has no such class") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"class_path {class_path!r}: {error}") from error

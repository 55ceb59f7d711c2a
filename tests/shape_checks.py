"""Checks the shapes in the signatures and dataclasses of the method, at each call, while the tests run."""

from collections.abc import Callable
from typing import Any, get_args, get_type_hints

from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook


def install() -> None:
    """To be called before anything imports d2v."""
    # d2v.types' named tuple is left alone by jaxtyping: it checks functions, methods and dataclasses.
    modules = ["d2v.model", "d2v.nn", "d2v.types", "d2v.modalities.vision.front_end", "d2v.evaluation.effective_rank"]
    install_import_hook(modules, f"{__name__}.check")


def check(function: Callable) -> Callable:
    """beartype, where there is a shape. Plain values (what a recipe sets) are left to those who read recipes."""
    hints = get_type_hints(function).values()
    return beartype(function) if any(_has_shape(hint) for hint in hints) else function


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_has_shape(inner) for inner in get_args(hint))

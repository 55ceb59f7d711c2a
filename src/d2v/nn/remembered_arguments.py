"""Modules that remember the arguments they were built with, so that a checkpoint can name them."""

import functools
import inspect
from typing import Any, TypeVar

from torch import nn

Module = TypeVar("Module", bound=type[nn.Module])


def remember_arguments(module: Module) -> Module:
    """Class decorator: each instance has ``init_args``, what it was built with, defaults included.

    A module among the arguments is left out: it has to be handed in again to build this one again.

    Raises:
        TypeError: When built with an argument that is no plain value (text, number, list, dict or None).
    """
    build = module.__init__
    signature = inspect.signature(build)

    @functools.wraps(build)
    def remembering(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        if type(self) is not module:  # called by the constructor of a subclass
            return
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(parameter.name, {})
        init_args = {}
        for name, value in arguments.items():
            if not isinstance(value, nn.Module):
                init_args[name] = _plain(value, f"{module.__name__}: {name}")
        self.__dict__["init_args"] = init_args

    module.__init__ = remembering  # type: ignore[method-assign]
    return module


def _plain(value: Any, name: str) -> Any:
    """The value as YAML, JSON and a checkpoint hold it: tuples become lists."""
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    if isinstance(value, dict):
        return {_plain(key, name): _plain(item, name) for key, item in value.items()}
    if value is None or type(value) in (str, bool, int, float):  # a subclass of one needs code to be read again
        return value
    raise TypeError(f"{name} is a {type(value).__name__}; a checkpoint can hold plain values only")

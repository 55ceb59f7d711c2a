"""Every module imports, and every global name in its functions is there (shapes as text keep linters from checking)."""

import builtins
import dis
import importlib
import pkgutil
from collections.abc import Iterator
from types import CodeType

import pytest

import d2v

MODULES = sorted(module.name for module in pkgutil.walk_packages(d2v.__path__, "d2v."))


def global_names(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and constant.co_name != "<module>":
            yield from global_names(constant)


@pytest.mark.parametrize("name", MODULES)
def test_every_name_is_defined(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    with open(module.__file__, "rb") as file:
        code = compile(file.read(), module.__file__, "exec")
    functions = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    used = set()
    for function in functions:
        if "__module__" not in function.co_names:  # the body of a class has names of its own; its functions are below
            used |= set(global_names(function))
        else:
            for inner in function.co_consts:
                if isinstance(inner, CodeType):
                    used |= set(global_names(inner))
    missing = {each for each in used if each not in vars(module) and not hasattr(builtins, each)}
    assert not missing

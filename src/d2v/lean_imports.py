"""Keeps torchmetrics, which Lightning imports, from importing large packages for metrics that no command of d2v uses.

They take a third of the time that Lightning takes to import. This holds for the command ``d2v`` only: a script that
imports torchmetrics itself gets all of it.
"""

import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError
from types import ModuleType

_HIDDEN = ("matplotlib", "scipy", "transformers")


def keep_torchmetrics_lean() -> None:
    """Hide those packages from torchmetrics while it is imported, now or later."""
    if "torchmetrics" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds torchmetrics as usual, and runs it while the packages are hidden."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torchmetrics":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _run_lean(run, module)  # type: ignore[method-assign]
        return spec


def _run_lean(run: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Run a module while the packages look as if they were not installed."""
    from lightning_utilities.core import imports  # torchmetrics asks this module what is installed

    def version(distribution_name: str) -> str:
        if distribution_name in _HIDDEN:
            raise PackageNotFoundError(distribution_name)
        return importlib.metadata.version(distribution_name)

    if "_version" not in vars(imports):  # another release of it: then all is imported
        run(module)
        return
    hidden = [name for name in _HIDDEN if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: an import of it fails
    asked, imports._version = imports._version, version  # type: ignore[attr-defined]
    try:
        run(module)
    finally:
        imports._version = asked  # type: ignore[attr-defined]
        for name in hidden:
            del sys.modules[name]

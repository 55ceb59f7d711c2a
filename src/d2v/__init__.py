"""data2vec for people who pretrain: one self-supervised method for pictures, speech and text."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d2v.checkpoints.load import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import ``load``, and torch with it, when it is first asked for: `import d2v` and `d2v --help` stay quick."""
    if name == "load":
        from d2v.checkpoints.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

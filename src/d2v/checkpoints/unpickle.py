"""Reading files that others wrote, without running anything that stands in them."""

import re
from pathlib import Path
from typing import Any

import torch

from d2v.errors import UserError


class StandIn:
    """Takes the place of an object that is not needed: keeps its state as plain attributes and does nothing."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


# What the official checkpoints hold beside tensors and plain containers. Names only: the real classes are never imported.
_INERT = (
    "argparse.Namespace",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)


def load_untrusted(path: Path) -> dict[str, Any]:
    """Load a torch file whose pickle may hold tensors, plain containers and a few inert stand-ins, on the CPU.

    Raises:
        UserError: The file is not there, is no torch file, or wants anything else; the message says what it wanted.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    stand_ins = [(type(name, (StandIn,), {}), name) for name in _INERT]
    try:
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a damaged or a refused file
        wanted = re.search(r"(?:GLOBAL|global:?|function|class) ([\w.]+\.[\w.]+)", str(error))
        if wanted and "weights_only" in str(error).lower():
            raise UserError(
                f"{path}: refused, because loading it would use {wanted[1]}. A checkpoint of weights needs tensors and "
                "plain containers only; if you trust its origin, save its state dict again without that object."
            ) from error
        raise UserError(f"{path}: not a readable torch checkpoint ({str(error).splitlines()[0][:200]})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, where a checkpoint is a dict")
    return content

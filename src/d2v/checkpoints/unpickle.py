"""Read files from anybody without running any code in them."""

import io
import pickle
import pickletools
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy
import torch

from d2v.errors import UserError

_HARMLESS = r"torch\.|torch \w+Storage$|collections |numpy|argparse |omegaconf\."
_LARGEST = 64_000_000
"""Most bytes of a pickle to search for names; in a checkpoint it has a few hundred kilobytes."""


class StandIn:
    """Replaces an object that is not needed: keeps the arguments and the state of the object, and does nothing.

    It has slots and no ``__dict__``: a file can set the two values and nothing else, not even a method of an instance.
    """

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Self:
        self = super().__new__(cls)
        self.args = args
        self.state = None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _attributes(stand_in: StandIn) -> dict[str, Any]:
    if isinstance(stand_in.state, dict):
        return stand_in.state
    return {}


def _content(stand_in: StandIn) -> Any:
    return _attributes(stand_in).get("_content")


def _value(stand_in: StandIn) -> Any:
    return _attributes(stand_in).get("_val")


def _first_argument(stand_in: StandIn) -> Any:
    return next(iter(stand_in.args), None)


def _nothing(stand_in: StandIn) -> None:
    return None


def _number(stand_in: StandIn) -> Any:
    """Value of ``numpy.core.multiarray.scalar(dtype, bytes)``, for the plain number types."""
    match stand_in.args:
        case (StandIn(args=(str(dtype), *_)), bytes(raw)) if re.fullmatch(r"[<>|=]?[biuf][1248]", dtype):
            values = numpy.frombuffer(raw, dtype)
            if len(values) == 1:
                return values[0].item()
    return None


# Objects that official checkpoints hold beside tensors and plain containers, with the function that makes a plain value
# of each. These are only names: the real classes are never imported, and need not be installed.
_INERT: dict[str, Callable[[StandIn], Any]] = {
    "argparse.Namespace": _attributes,
    "omegaconf.dictconfig.DictConfig": _content,
    "omegaconf.listconfig.ListConfig": _content,
    "omegaconf.base.ContainerMetadata": _nothing,
    "omegaconf.base.Metadata": _nothing,
    "omegaconf.nodes.AnyNode": _value,
    "omegaconf.nodes.BooleanNode": _value,
    "omegaconf.nodes.EnumNode": _value,
    "omegaconf.nodes.FloatNode": _value,
    "omegaconf.nodes.IntegerNode": _value,
    "omegaconf.nodes.StringNode": _value,
    # An Enum is pickled as a call of its class with its value.
    "examples.data2vec.data.modality.Modality": _first_argument,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "numpy.dtype": _first_argument,
    "typing.Any": _nothing,
    "collections.defaultdict": _nothing,
    "builtins.dict": _nothing,  # omegaconf's metadata names these types
    "builtins.list": _nothing,
    "builtins.int": _nothing,
}
_STAND_INS = {name: type(name, (StandIn,), {"__slots__": ()}) for name in _INERT}
_NAMES = {stand_in: name for name, stand_in in _STAND_INS.items()}


def load_untrusted(path: Path) -> dict[str, Any]:
    """Load a torch file whose pickle may hold tensors, plain containers and a few inert objects, on the CPU.

    A Namespace and omegaconf's containers come back as the dicts and lists that they hold, an enum as its value.

    Raises:
        UserError: The file does not exist, is no torch file, or needs anything else, which the message then names.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals(list(_NAMES.items())), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other protocols, which are then refused or read
            # Memory-mapped, so that optimizer states and other unused parts of the file are never read.
            content = plain(torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)))
    except Exception as error:  # torch raises half a dozen types for a damaged or a refused file
        raise refusal(path, error) or UserError(
            f"{path}: not a readable torch checkpoint ({_reason(error)}); if its download broke off, get it once more"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, where a checkpoint is a dict")
    return content


def refusal(path: str | Path, error: Exception) -> UserError | None:
    """The error for a file that torch refused because loading it would use other objects; None: for another reason."""
    said = re.search(r"GLOBAL (\S+)|(?:reduce for unrecognized function|but got) ([^\n]{1,120})", str(error))
    if said:
        wanted = said[1] or said[2]
    else:  # some forms are refused by their opcode, before a name is reached
        wanted = ", ".join(foreign_names(Path(path))[:5])
    if not wanted:
        return None
    return UserError(
        f"{path}: refused, because loading it would use {wanted}. A checkpoint of weights needs "
        "tensors and plain containers only; if you trust its origin, save it again without that object."
    )


def _reason(error: Exception) -> str:
    message = str(error)
    said = re.search(r"WeightsUnpickler error:\s*(\S.*)", message) or re.search(r"(\S.*)", message)
    if said and " " in said[1] and "zip archive" not in said[1]:  # of which torch says that it is its own fault
        return said[1][:200]
    return "damaged, or another kind of file"


def plain(value: Any) -> Any:
    """Replace stand-ins by the plain values they hold, in dicts, lists and tuples.

    Raises:
        ValueError: A tensor is larger than what the file holds of it, so that a small file could fill the memory.
    """
    if isinstance(value, torch.Tensor):
        held = 0 if value.is_meta else value.untyped_storage().nbytes()
        if value.numel() * value.element_size() > held:
            raise ValueError(f"a tensor of the shape {list(value.shape)}, of which the file holds {held} bytes")
    if isinstance(value, dict):
        return dict(zip(value, map(plain, value.values()), strict=True))
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if isinstance(value, StandIn):
        return plain(_INERT[_NAMES[type(value)]](value))
    if isinstance(value, type) and value in _NAMES:
        return _NAMES[value]  # a class that was named and not called
    return value


def foreign_names(path: Path) -> list[str]:
    """Functions and classes, as "module.name", that the pickles in a file use, but a checkpoint does not need.

    They are found by reading opcodes: nothing is imported or called. This only helps messages: a file can hide names,
    so an empty result does not prove that it is harmless.

    Args:
        path: A torch file of any age, or a bare pickle.
    """
    names: dict[str, None] = {}
    try:
        for data in _pickles(path):
            names.update(dict.fromkeys(_named(data)))
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        pass
    return [name.replace(" ", ".") for name in names if not re.match(_HARMLESS, name)]


def _pickles(path: Path) -> Iterator[io.BytesIO]:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            yield io.BytesIO(file.read(_LARGEST))
        return
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".pkl") and entry.file_size <= _LARGEST:
                yield io.BytesIO(archive.read(entry))


def _named(stream: io.BytesIO) -> Iterator[str]:
    """Names, as "module name", in the pickles that follow each other in a stream."""
    strings: list[str] = []  # STACK_GLOBAL takes the last two
    memo: dict[int, str] = {}
    try:
        while True:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument)
                elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                    yield " ".join(strings[-2:])
                elif isinstance(argument, str):
                    strings.append(argument)
                elif opcode.name == "MEMOIZE" and strings:
                    memo[len(memo)] = strings[-1]
                elif opcode.name in ("BINGET", "LONG_BINGET") and argument in memo:
                    strings.append(memo[argument])
    except (ValueError, pickle.UnpicklingError, UnicodeDecodeError, IndexError, OverflowError):
        return  # the storages behind them, or the end

"""Files that run a command when a plain unpickler reads them, in many forms, for those who test that none does."""

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def as_zip(path: Path, data: bytes) -> None:
    """A torch file of today around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")


def as_legacy(path: Path, data: bytes) -> None:
    """A torch file of before 1.6: three small pickles, the content, the list of storages."""
    head = [LEGACY_MAGIC, 1001, {"protocol_version": 1001, "little_endian": True}]
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + data + pickle.dumps([], 2))


def as_tar(path: Path, data: bytes) -> None:
    """A torch file of before 0.1.10."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def as_bare(path: Path, data: bytes) -> None:
    """The pickle alone."""
    path.write_bytes(data)


class _Reduce:
    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def text(value: str) -> bytes:
    """Opcode BINUNICODE."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def attacks(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles by form, each of which writes ``canary`` if it is obeyed, and what the refusal must name ("": anything).

    The checkpoint is the dict {"model": ..., "state_dict": ...}, so that no check of its keys comes first.
    """
    import os
    from functools import partial

    touch = f"touch {canary}"
    write = f"open({str(canary)!r}, 'w').close()"
    system, call = b"cos\nsystem\n", b"(" + text(touch) + b"tR"
    array = numpy.empty(1, dtype=object)
    array[0] = _Reduce(os.system, touch)
    evil = {"state_dict": {}, "model": _Reduce(os.system, touch)}
    forms: dict[str, tuple[bytes, str]] = {
        "REDUCE of os.system": (pickle.dumps(evil, 2), "system"),
        "protocol 0": (pickle.dumps(evil, 0), "system"),
        "protocol 4, STACK_GLOBAL": (pickle.dumps(evil, 4), ""),
        "protocol 5": (pickle.dumps({"model": _Reduce(exec, write)}, 5), ""),
        "GLOBAL of eval": (b"\x80\x02}" + text("model") + b"cbuiltins\neval\n(" + text(write) + b"tRs.", "eval"),
        "INST": (b"}S'model'\n(S'" + touch.encode() + b"'\nios\nsystem\ns.", ""),
        "OBJ": (b"}S'model'\n(cos\nsystem\nS'" + touch.encode() + b"'\nos.", "system"),
        "NEWOBJ": (
            b"\x80\x02}" + text("model") + b"cbuiltins\nlist\ncbuiltins\nmap\n" + system + b"](" + text(touch)
            + b"e\x86\x81\x85Rs.",
            "map",
        ),
        "BUILD with __setstate__": (
            b"\x80\x02}" + text("model") + b"cargparse\nNamespace\n)R}" + text("__setstate__") + system + b"sb"
            + text(touch) + b"bs.",
            "system",
        ),
        "a chain of getattr": (
            b"\x80\x02}" + text("model") + b"cbuiltins\ngetattr\n(cimportlib\nimport_module\n(" + text("os") + b"tR"
            + text("system") + b"tR" + call + b"s.",
            "getattr",
        ),
        "functools.partial": (pickle.dumps({"model": _Reduce(partial(os.system, touch))}, 2), "partial"),
        "subprocess": (
            b"\x80\x02}" + text("model") + b"csubprocess\ncall\n(](" + text("touch") + text(str(canary)) + b"etRs.",
            "subprocess.call",
        ),
        "posix": (b"\x80\x02}" + text("model") + b"cposix\nsystem\n" + call + b"s.", "posix.system"),
        "memoised": (b"\x80\x02" + system + b"q\x000}" + text("model") + b"h\x00" + call + b"s.", "system"),
        "in an array of objects": (pickle.dumps({"model": array}, 2), ""),
        "as a key": (b"\x80\x02}" + system + call + text("model") + b"s.", "system"),
        "before the content": (b"\x80\x02" + system + call + b"0}" + text("model") + b"}s.", "system"),
    }  # fmt: skip
    return forms


FORMS = list(attacks(Path("canary")))
WRAPS: dict[str, Callable[[Path, bytes], None]] = {"zip": as_zip, "legacy": as_legacy, "tar": as_tar, "bare": as_bare}


def torch_script(path: Path, data: bytes) -> None:
    """An archive that claims to be TorchScript, whose loader is another one."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/constants.pkl", data)
        archive.writestr("archive/version", "3\n")


def object_tensor(path: Path, data: bytes) -> None:
    """An honest file of torch beside whose pickle lies another one, with the same name in another folder."""
    torch.save({"model": {}}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("data.pkl", data)
        archive.writestr("other/data.pkl", data)

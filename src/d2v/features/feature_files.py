"""Writes features to one file (Parquet, NPZ or safetensors) from a journal of rows, and reads such files."""

import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from jaxtyping import Float32

from d2v.data.unpacking import require_plausible, require_plausible_parquet
from d2v.errors import UserError
from d2v.features.journal import RowJournal, flat_values
from d2v.whole_files import sync

_ROW_GROUP_BYTES = 16 * 2**20
_CHECKSUM = "crc32"  # of the vectors; Parquet and NPZ have their own
_SETTINGS = "d2v"  # the name under which a file keeps its settings, as JSON


@dataclass(frozen=True)
class PooledFeatures:
    """The content of a file of pooled features; n inputs."""

    ids: list[str]
    vectors: Float32[np.ndarray, "n d"]
    settings: dict[str, Any]
    """How they were made; empty if the file does not say."""


def require_format(path: Path) -> None:
    """Raise a UserError if features cannot be written to a file of this name."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--output {path}: its name must end with one of {', '.join(FORMATS)}")
    if path.is_dir():
        raise UserError(f"--output {path} is a folder; give the name of a file in it")


def write_features(path: Path, journal: RowJournal, settings: dict[str, Any], part: str = "frame") -> None:
    """Write all rows of a journal to a file. An older file of this name stays until the new one is complete.

    Args:
        path: Ends with one of :data:`FORMATS`.
        journal: Holds the rows; the unfinished file is written in its folder.
        settings: How the features were made; kept in the file as JSON under ``d2v``.
        part: Word for a frame in the names of columns: "token" for texts, "patch" for pictures.
    """
    unfinished = journal.folder / f"unfinished-{path.name}"
    write, _ = FORMATS[path.suffix.lower()]
    write(unfinished, journal, json.dumps(settings), part)
    sync(unfinished)
    unfinished.replace(path)
    sync(path.parent)


def read_file_settings(path: Path) -> dict[str, Any]:
    """How the features in a file were made; empty if it does not say.

    Raises:
        UserError: It cannot be read as a file of features.
    """
    return _read(path, with_rows=False).settings


def read_pooled(path: Path) -> PooledFeatures:
    """Read a file that `d2v embed` wrote.

    Raises:
        UserError: It cannot be read, or holds frames, tokens or patches instead of one vector an input.
    """
    found = _read(path, with_rows=True)
    if found.settings.get("pool") == "none" or found.vectors.ndim != 2 or len(found.vectors) != len(found.ids):
        raise UserError(f"{path}: holds many vectors an input; embed again with --pool mean or --pool cls")
    return found


def _read(path: Path, with_rows: bool) -> PooledFeatures:
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: give a file that `d2v embed` wrote, which ends with {', '.join(FORMATS)}")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; `d2v embed` writes one")
    _, read = FORMATS[path.suffix.lower()]
    try:
        return read(path, with_rows)
    except UserError:
        raise
    except Exception as error:  # the libraries raise errors of many types if a file is damaged or foreign
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be read as features ({reason}); `d2v embed` writes such files") from error


# Stands in place of the vectors of a file that is not pooled, which are not read.
_MANY_VECTORS = np.empty((0, 0, 0), np.float32)


def _write_parquet(path: Path, journal: RowJournal, settings: str, part: str) -> None:
    """Columns ``id``, ``embedding``, ``num_frames``, ``duration``; without pooling ``embedding`` holds a list of
    vectors, and ``times`` and ``first_frame`` stand beside it. In groups of rows of about 16 MB."""
    names = {"id": "id", "embedding": "embedding"}
    if not journal.pooled:
        names |= {"first_frame": f"first_{part}", "times": "times"}
    names |= {"num_frames": f"num_{_plural(part)}", "duration": "duration"}
    has_times = bool(journal.num_vectors) and journal.known()["duration"].null_count == 0
    if not has_times:
        names = {column: name for column, name in names.items() if column not in ("times", "duration")}
    writer: Any = None
    for group in journal.groups(max(1, _ROW_GROUP_BYTES // (4 * journal.width))):
        table = group.select(list(names)).rename_columns(list(names.values()))
        table = table.replace_schema_metadata({_SETTINGS: settings})
        writer = writer or pq.ParquetWriter(path, table.schema, use_dictionary=["id"], write_page_checksum=True)
        writer.write_table(table)
    writer.close()


def _read_parquet(path: Path, with_rows: bool) -> PooledFeatures:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        settings = json.loads((file.schema_arrow.metadata or {}).get(_SETTINGS.encode(), b"{}"))
        if not with_rows:
            return PooledFeatures([], _MANY_VECTORS, settings)
        vectors = file.schema_arrow.field("embedding").type
        require_plausible(path, 4 * file.metadata.num_rows * getattr(vectors, "list_size", 1))
        require_plausible_parquet(path, ["id"])
        ids = file.read(["id"])["id"].to_pylist()
        if not pa.types.is_fixed_size_list(vectors):
            return PooledFeatures(ids, _MANY_VECTORS, settings)
        matrix = np.empty((len(ids), vectors.list_size), np.float32)
        row = 0
        for group in range(file.num_row_groups):
            values = flat_values(file.read_row_group(group, ["embedding"])["embedding"])
            count = len(values) // vectors.list_size
            matrix[row : row + count] = values.reshape(count, -1)
            row += count
    return PooledFeatures(ids, matrix, settings)


class _Array(NamedTuple):
    """An array that is written block by block, because it may not fit into memory."""

    dtype: np.dtype
    shape: tuple[int, ...]
    blocks: Iterator[np.ndarray]

    @classmethod
    def of(cls, array: np.ndarray) -> "_Array":
        return cls(array.dtype, array.shape, iter([array]))


def _arrays(journal: RowJournal, part: str) -> tuple[list[str], dict[str, _Array]]:
    """Ids, and over all rows: ``embedding`` [rows, D], ``num_frames``, ``duration``; without pooling ``embedding`` and
    ``times`` hold the frames of all inputs, those of input i from ``offsets[i]`` to ``offsets[i + 1]``."""
    known = journal.known()
    known = known.filter(pc.equal(known["first_frame"], 0))  # the first rows of very long inputs
    has_times = known["duration"].null_count == 0
    num_frames = known["num_frames"].to_numpy()
    embedding = _Array(np.dtype(np.float32), (journal.num_vectors, journal.width), journal.values("embedding"))
    found = {"embedding": embedding, f"num_{_plural(part)}": _Array.of(num_frames)}
    if not journal.pooled:
        if has_times:
            found["times"] = _Array(np.dtype(np.float64), (journal.num_vectors,), journal.values("times"))
        found["offsets"] = _Array.of(np.cumsum([0, *num_frames]))
    if has_times:
        found["duration"] = _Array.of(known["duration"].to_numpy())
    return known["id"].to_pylist(), found


def _write_npz(path: Path, journal: RowJournal, settings: str, part: str) -> None:
    """Write what ``numpy.savez`` would, which needs all arrays in memory: the arrays and ``id``."""
    ids, arrays = _arrays(journal, part)
    arrays = {"id": _Array.of(np.array(ids)), _SETTINGS: _Array.of(np.array(settings)), **arrays}
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_1_0(file, header)
                for block in array.blocks:
                    file.write(block.tobytes())


def _read_npz(path: Path, with_rows: bool) -> PooledFeatures:
    with np.load(path, allow_pickle=False) as arrays:
        for entry in arrays.zip.infolist():
            require_plausible(path, entry.file_size)
        settings = json.loads(str(arrays.get(_SETTINGS, "{}")))
        if not with_rows:
            return PooledFeatures([], _MANY_VECTORS, settings)
        vectors = _MANY_VECTORS if "offsets" in arrays else arrays["embedding"]
        return PooledFeatures(arrays["id"].tolist(), vectors, settings)


def _write_safetensors(path: Path, journal: RowJournal, settings: str, part: str) -> None:
    """Write the arrays as tensors, and the ids as a JSON list under ``id`` in the metadata.

    Not by the library's own writer, which needs all bytes in memory. The format: the length of the header in 8
    bytes, the header in JSON, the tensors (https://huggingface.co/docs/safetensors).
    """
    ids, arrays = _arrays(journal, part)
    names = {"float32": "F32", "float64": "F64", "int64": "I64"}
    checksum = 0
    metadata = {"id": json.dumps(ids), _SETTINGS: settings, _CHECKSUM: f"{checksum:08x}"}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in arrays.items():
        begin = end
        end += array.dtype.itemsize * int(np.prod(array.shape))
        header[name] = {"dtype": names[array.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, array in arrays.items():
            for block in array.blocks:
                content = block.tobytes()
                file.write(content)
                if name == "embedding":
                    checksum = zlib.crc32(content, checksum)
        metadata[_CHECKSUM] = f"{checksum:08x}"
        file.seek(8)
        file.write(json.dumps(header).encode())


def _read_safetensors(path: Path, with_rows: bool) -> PooledFeatures:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        metadata = file.metadata() or {}
        settings = json.loads(metadata.get(_SETTINGS, "{}"))
        if not with_rows:
            return PooledFeatures([], _MANY_VECTORS, settings)
        vectors = _MANY_VECTORS
        if "offsets" not in file.keys():  # noqa: SIM118
            vectors = file.get_tensor("embedding")
            if metadata.get(_CHECKSUM) not in (None, f"{zlib.crc32(vectors.tobytes()):08x}"):
                raise ValueError("its checksum is wrong")
        return PooledFeatures(json.loads(metadata["id"]), vectors, settings)


_Writer = Callable[[Path, RowJournal, str, str], None]
_Reader = Callable[[Path, bool], PooledFeatures]
FORMATS: dict[str, tuple[_Writer, _Reader]] = {
    ".parquet": (_write_parquet, _read_parquet),
    ".npz": (_write_npz, _read_npz),
    ".safetensors": (_write_safetensors, _read_safetensors),
}


def _plural(part: str) -> str:
    return "patches" if part == "patch" else f"{part}s"

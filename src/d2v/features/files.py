"""Features in one file: Parquet, NPZ or safetensors, written from a journal of rows."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from d2v.errors import UserError
from d2v.features.journal import RowIndex, RowJournal

_ROW_GROUP_BYTES = 16 * 2**20
SETTINGS = "d2v"
"""Where a file keeps what its features are, as JSON."""


def write_features(path: Path, journal: RowJournal, settings: dict[str, Any], part: str = "frame") -> None:
    """Make the file of all rows of a journal, all at once: what was there under its name stays until it is whole.

    Args:
        path: of the file; its ending is one of :data:`FORMATS`.
        journal: whose rows; the unfinished file lies in its folder.
        settings: what the features are, kept in the file as JSON under ``d2v``.
        part: what a frame is called in the names of columns: "token" of a text, "patch" of a picture.
    """
    unfinished = journal.folder / path.name
    FORMATS[path.suffix.lower()](unfinished, journal, json.dumps(settings), part)
    unfinished.replace(path)


def _write_parquet(path: Path, journal: RowJournal, settings: str, part: str) -> None:
    """Columns ``id``, ``embedding``, ``num_frames``, ``duration``; without pooling ``embedding`` holds a list of
    vectors, and ``times`` and ``first_frame`` stand beside it. In groups of rows of about 16 MB."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    index, vectors, times = journal.index(), journal.vectors(), journal.times()
    writer: Any = None
    row = 0
    while row < len(index.names):
        begin = int(index.ends[row - 1]) if row else 0
        most = max(1, _ROW_GROUP_BYTES // (4 * journal.width))
        stop = max(row + 1, int(np.searchsorted(index.ends, begin + most, side="right")))
        end = int(index.ends[stop - 1])
        embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors[begin:end].reshape(-1)), journal.width)
        columns: dict[str, Any] = {"id": pa.array(index.names[row:stop], pa.string())}
        if journal.pooled:
            columns["embedding"] = embedding
        else:
            offsets = pa.array(np.concatenate([[0], index.ends[row:stop] - begin]))
            columns["embedding"] = pa.LargeListArray.from_arrays(offsets, embedding)
            columns[f"first_{part}"] = pa.array(index.first_frames[row:stop])
            if times is not None:
                columns["times"] = pa.LargeListArray.from_arrays(offsets, pa.array(times[begin:end]))
        columns[f"num_{_plural(part)}"] = pa.array(index.num_frames[row:stop])
        if index.durations is not None:
            columns["duration"] = pa.array(index.durations[row:stop])
        table = pa.table(columns).replace_schema_metadata({SETTINGS: settings})
        writer = writer or pq.ParquetWriter(path, table.schema, use_dictionary=["id"])
        writer.write_table(table)
        row = stop
    writer.close()


def _arrays(journal: RowJournal, index: RowIndex, part: str) -> dict[str, np.ndarray]:
    """Over all rows: ``embedding`` [rows, D], ``num_frames``, ``duration``; without pooling ``embedding`` and ``times``
    hold the frames of all inputs, those of input i from ``offsets[i]`` to ``offsets[i + 1]``. Large ones lie on the
    disk."""
    is_first = index.first_frames == 0  # of the rows of an input
    found = {"embedding": journal.vectors(), f"num_{_plural(part)}": index.num_frames[is_first]}
    if (times := journal.times()) is not None:
        found["times"] = times
    if not journal.pooled:
        found["offsets"] = np.cumsum([0, *found[f"num_{_plural(part)}"]])
    if index.durations is not None:
        found["duration"] = index.durations[is_first]
    return found


def _ids(index: RowIndex) -> list[str]:
    return [name for name, first in zip(index.names, index.first_frames.tolist(), strict=True) if not first]


def _write_npz(path: Path, journal: RowJournal, settings: str, part: str) -> None:
    """The arrays, and ``id``, for ``numpy.load``."""
    index = journal.index()
    arrays = _arrays(journal, index, part)
    with path.open("wb") as file:
        np.savez(file, id=np.array(_ids(index)), d2v=np.array(settings), **arrays)  # type: ignore[arg-type]


def _write_safetensors(path: Path, journal: RowJournal, settings: str, part: str) -> None:
    """The arrays as tensors; ids stand as a JSON list under ``id`` in the metadata.

    Written here, since the library's own writer wants all bytes in memory. The format: the length of the header in 8
    bytes, the header in JSON, the tensors (https://huggingface.co/docs/safetensors).
    """
    index = journal.index()
    arrays = _arrays(journal, index, part)
    names = {"float32": "F32", "float64": "F64", "int64": "I64"}
    header: dict[str, Any] = {"__metadata__": {"id": json.dumps(_ids(index)), SETTINGS: settings}}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": names[array.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            array.tofile(file)


FORMATS: dict[str, Callable[[Path, RowJournal, str, str], None]] = {
    ".parquet": _write_parquet,
    ".npz": _write_npz,
    ".safetensors": _write_safetensors,
}


def _plural(part: str) -> str:
    return "patches" if part == "patch" else f"{part}s"


def require_format(path: Path) -> None:
    """Raise a UserError if features cannot have this name."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--output {path}: its name must end with one of {', '.join(FORMATS)}")
    if path.is_dir():
        raise UserError(f"--output {path} is a folder; give the name of a file in it")

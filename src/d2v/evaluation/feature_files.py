"""Features into a file, row by row: Parquet, NPZ or safetensors."""

import json
import shutil
import struct
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from d2v.errors import UserError
from d2v.evaluation.embedding import Row

_ROW_GROUP_BYTES = 16 * 2**20


class FeatureFile(ABC):
    """A file that comes into being when all rows are written: until then it has the suffix ``.part``, and what was
    there under its name before stays.

    Args:
        path: Of the finished file; its folder is made.
        settings: What the features are, kept in the file as JSON under ``d2v``.
        part: What a frame is called in the names of columns: "token" of a text.
    """

    def __init__(self, path: Path, settings: dict[str, Any], part: str = "frame") -> None:
        self.path, self.settings = path, json.dumps(settings)
        self._count, self._first = f"num_{part}s", f"first_{part}"
        self._part = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._part.touch()

    @abstractmethod
    def write(self, row: Row) -> None:
        """Add a row; all have features of one width, all pooled or all not."""

    @abstractmethod
    def finish(self) -> None:
        """Complete the unfinished file, which then gets its name."""

    @abstractmethod
    def close(self) -> None:
        """Release what is open, without completing anything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            try:
                if kind is None:
                    self.finish()
            finally:
                self.close()
            if kind is None:
                self._part.replace(self.path)
        finally:
            self._part.unlink(missing_ok=True)


class ParquetFile(FeatureFile):
    """Columns ``id``, ``embedding``, ``num_frames``, ``duration``; without pooling ``embedding`` holds a list of
    vectors, and ``times`` and ``first_frame`` stand beside it. Written in groups of rows of about 16 MB."""

    def __init__(self, path: Path, settings: dict[str, Any], part: str = "frame") -> None:
        super().__init__(path, settings, part)
        self._writer: Any = None
        self._rows: list[Row] = []
        self._bytes = 0

    def write(self, row: Row) -> None:
        self._rows.append(row)
        self._bytes += row.features.nbytes
        if self._bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def finish(self) -> None:
        self._flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        if not self._rows:
            return
        first = self._rows[0]
        values = pa.array(np.concatenate([row.features.reshape(-1) for row in self._rows]))
        vectors = pa.FixedSizeListArray.from_arrays(values, first.features.shape[-1])
        columns: dict[str, Any] = {"id": pa.array([row.name for row in self._rows], pa.string())}
        if first.features.ndim == 1:
            columns["embedding"] = vectors
        else:
            ends = np.cumsum([0, *(len(row.features) for row in self._rows)])
            columns["embedding"] = pa.LargeListArray.from_arrays(pa.array(ends), vectors)
            columns[self._first] = pa.array([row.first_frame for row in self._rows], pa.int64())
            if first.times is not None:
                times = pa.array(np.concatenate([row.times for row in self._rows if row.times is not None]))
                columns["times"] = pa.LargeListArray.from_arrays(pa.array(ends), times)
        columns[self._count] = pa.array([row.num_frames for row in self._rows], pa.int64())
        if first.duration is not None:
            columns["duration"] = pa.array([row.duration for row in self._rows], pa.float64())
        table = pa.table(columns).replace_schema_metadata({"d2v": self.settings})
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._part, table.schema, use_dictionary=["id"])
        self._writer.write_table(table)
        self._rows, self._bytes = [], 0


class ArrayFile(FeatureFile):
    """Arrays over all rows: ``embedding`` [rows, D], ``num_frames``, ``duration``; without pooling ``embedding`` and
    ``times`` hold the frames of all inputs, those of input i from ``offsets[i]`` to ``offsets[i + 1]``.

    Frames go through temporary files beside the output, so that memory does not grow with them.
    """

    def __init__(self, path: Path, settings: dict[str, Any], part: str = "frame") -> None:
        super().__init__(path, settings, part)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        self._files: dict[str, IO[bytes]] = {}
        self._width = 0
        self._pooled = True
        self.ids: list[str] = []
        self._columns: dict[str, list[Any]] = {self._count: []}

    def write(self, row: Row) -> None:
        self._append("embedding", row.features)
        self._width, self._pooled = row.features.shape[-1], row.features.ndim == 1
        if row.times is not None:
            self._append("times", row.times)
        if not self._pooled:
            offsets = self._columns.setdefault("offsets", [0])
            if row.first_frame:  # a later part of the same input
                offsets[-1] += len(row.features)
                return
            offsets.append(offsets[-1] + len(row.features))
        self.ids.append(row.name)
        self._columns[self._count].append(row.num_frames)
        if row.duration is not None:
            self._columns.setdefault("duration", []).append(row.duration)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of them by name; the large ones lie on the disk."""
        found: dict[str, np.ndarray] = {}
        for name, dtype in (("embedding", np.float32), ("times", np.float64)):
            if name in self._files:
                self._files[name].flush()
                found[name] = np.memmap(self._folder / name, dtype=dtype, mode="r")
        if "embedding" in found:
            found["embedding"] = found["embedding"].reshape(-1, self._width)
        return {**found, **{name: np.array(column) for name, column in self._columns.items()}}

    def _append(self, name: str, array: np.ndarray) -> None:
        if name not in self._files:
            self._files[name] = (self._folder / name).open("wb")
        self._files[name].write(np.ascontiguousarray(array).data)


class NpzFile(ArrayFile):
    """The arrays, and ``id``, for ``numpy.load``."""

    def finish(self) -> None:
        with self._part.open("wb") as file:
            np.savez(file, id=np.array(self.ids), d2v=np.array(self.settings), **self.arrays())  # type: ignore[arg-type]


class SafetensorsFile(ArrayFile):
    """The arrays as tensors; ids stand as a JSON list under ``id`` in the metadata.

    Written here, since the library's own writer wants all bytes in memory. The format: the length of the header in 8
    bytes, the header in JSON, the tensors (https://huggingface.co/docs/safetensors).
    """

    _NAMES = {"float32": "F32", "float64": "F64", "int64": "I64"}

    def finish(self) -> None:
        arrays = self.arrays()
        header: dict[str, Any] = {"__metadata__": {"id": json.dumps(self.ids), "d2v": self.settings}}
        end = 0
        for name, array in arrays.items():
            begin, end = end, end + array.nbytes
            header[name] = {
                "dtype": self._NAMES[array.dtype.name],
                "shape": list(array.shape),
                "data_offsets": [begin, end],
            }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with self._part.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for array in arrays.values():
                array.tofile(file)


FORMATS: dict[str, type[FeatureFile]] = {".parquet": ParquetFile, ".npz": NpzFile, ".safetensors": SafetensorsFile}


def open_feature_file(path: Path, settings: dict[str, Any], part: str = "frame") -> FeatureFile:
    """A file to write rows into, of the format that its name ends with.

    Raises:
        UserError: There is no such format, or nothing can be written there.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"--output {path}: its name must end with one of {', '.join(FORMATS)}")
    if path.is_dir():
        raise UserError(f"--output {path} is a folder; give the name of a file in it")
    try:
        return kind(path, settings, part)
    except OSError as error:
        raise UserError(f"--output {path}: cannot be written ({error.strerror}); give another place") from error

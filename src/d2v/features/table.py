"""What `d2v embed` wrote, read again."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from d2v.errors import UserError
from d2v.features.files import FORMATS, SETTINGS


@dataclass(frozen=True)
class PooledFeatures:
    """What lies in a file of pooled features; n inputs."""

    ids: list[str]
    vectors: Float32[np.ndarray, "n d"]
    settings: dict[str, Any]
    """What they are; empty where the file does not tell."""


def read_file_settings(path: Path) -> dict[str, Any]:
    """What the features in a file are; empty where it does not tell.

    Raises:
        UserError: It cannot be read as a file of features.
    """
    return _read(path, lambda kind: kind[0](path))


def read_pooled(path: Path) -> PooledFeatures:
    """All rows of a file that `d2v embed` wrote.

    Raises:
        UserError: It cannot be read, or holds frames, tokens or patches instead of one vector an input.
    """
    ids, vectors = _read(path, lambda kind: kind[1](path))
    found = PooledFeatures(ids, vectors, read_file_settings(path))
    if found.settings.get("pool") == "none" or found.vectors.ndim != 2 or len(found.vectors) != len(found.ids):
        raise UserError(f"{path}: holds many vectors an input; embed again with --pool mean or --pool cls")
    return found


def _read(path: Path, read: Callable[[Any], Any]) -> Any:
    if path.suffix.lower() not in _READERS:
        raise UserError(f"{path}: give a file that `d2v embed` wrote, which ends with {', '.join(FORMATS)}")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; `d2v embed` writes one")
    try:
        return read(_READERS[path.suffix.lower()])
    except Exception as error:  # each library raises many types of its own at a damaged or foreign file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read as features ({reason}); `d2v embed` writes such files") from error


def _parquet_settings(path: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    return json.loads((pq.read_schema(path).metadata or {}).get(SETTINGS.encode(), b"{}"))


def _parquet_rows(path: Path) -> tuple[list[str], np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    vectors = file.schema_arrow.field("embedding").type
    ids = file.read(["id"])["id"].to_pylist()
    if not pa.types.is_fixed_size_list(vectors):  # a list of vectors a row: not read at all
        return ids, np.empty((0, 0, 0), np.float32)
    matrix = np.empty((len(ids), vectors.list_size), np.float32)
    row = 0
    for batch in file.iter_batches(columns=["embedding"]):
        part = batch.column(0).flatten().to_numpy(zero_copy_only=False).reshape(-1, vectors.list_size)
        matrix[row : row + len(part)] = part
        row += len(part)
    return ids, matrix


def _npz_settings(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return json.loads(str(arrays[SETTINGS])) if SETTINGS in arrays else {}


def _npz_rows(path: Path) -> tuple[list[str], np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        vectors = np.empty((0, 0, 0), np.float32) if "offsets" in arrays else arrays["embedding"]
        return arrays["id"].tolist(), vectors


def _safetensors_settings(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return json.loads((file.metadata() or {}).get(SETTINGS, "{}"))


def _safetensors_rows(path: Path) -> tuple[list[str], np.ndarray]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        ids = json.loads(file.metadata()["id"])
        if "offsets" in file.keys():  # noqa: SIM118
            return ids, np.empty((0, 0, 0), np.float32)
        return ids, file.get_tensor("embedding")


_READERS: dict[str, tuple[Callable[[Path], dict[str, Any]], Callable[[Path], tuple[list[str], np.ndarray]]]] = {
    ".parquet": (_parquet_settings, _parquet_rows),
    ".npz": (_npz_settings, _npz_rows),
    ".safetensors": (_safetensors_settings, _safetensors_rows),
}

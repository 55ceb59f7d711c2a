"""Pictures in archives with random access: Hugging Face parquet and WebDataset tars."""

import json
import logging
import os
import tarfile
from collections import OrderedDict
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from tqdm import tqdm

from d2v.data.dataset import BrokenSample
from d2v.errors import UserError
from d2v.modalities.vision.decoding import IMAGE_SUFFIXES
from d2v.modalities.vision.sources import ImageSource, PackedStrings

if TYPE_CHECKING:
    from datasets import Dataset, Features

log = logging.getLogger(__name__)

# Open files are limited to 1024 a process on most systems, and a data set may have more shards than that.
_OPEN_TARS = 64


class ParquetSource(ImageSource):
    """Parquet with a column of struct{bytes, path}, memory-mapped by the ``datasets`` library.

    That library converts the files once into its own cache (``HF_DATASETS_CACHE``), as large as the data; nothing is
    fetched from a network.

    Args:
        files: of one split, in their order.
        train_classes: of the training split, to which the labels of this split must belong; None: this is it.

    Raises:
        UserError: if a file cannot be read, no column holds pictures or the labels are no integers.
    """

    suffix: ClassVar[str] = ".parquet"

    def __init__(self, files: list[Path], train_classes: tuple[str, ...] | None = None) -> None:
        from datasets import ClassLabel, Image, load_dataset

        where = f"data.root: {files[0].parent}/{files[0].name}"
        try:
            dataset = load_dataset("parquet", data_files=[str(file) for file in files], split="train")
        except Exception as error:  # the library wraps what goes wrong in many types of its own
            raise UserError(
                f"{where} (or one beside it) cannot be read as parquet: {error.__cause__ or error}"
            ) from error
        self._image = _image_column(dataset.features, where)
        label = _label_column(dataset.features, where)
        self._dataset: Dataset = dataset.cast_column(self._image, Image(decode=False)).select_columns([self._image])
        if len(dataset) == 0:
            raise UserError(f"{where} has no rows.")
        self._files = [file.name for file in files]
        self._labels: np.ndarray | None = None
        if label is not None:
            labels = np.asarray(dataset.with_format("numpy")[label][:], dtype=np.int64)
            feature = dataset.features[label]
            names = tuple(feature.names) if isinstance(feature, ClassLabel) else None
            self._labels, self.classes = _checked_labels(labels, names, where, train_classes)

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, index: int) -> tuple[bytes, int | None]:
        data = self._dataset[index][self._image]["bytes"]
        if data is None:
            raise BrokenSample("the row holds no bytes")
        return data, None if self._labels is None else int(self._labels[index])

    def name(self, index: int) -> str:
        path = self._dataset[index][self._image]["path"]
        return f"row {index} of {self._files[0]} and following ({path})"


class TarSource(ImageSource):
    """Uncompressed tars in which ``KEY.jpg`` (or another picture) may stand beside ``KEY.cls`` or ``KEY.json``.

    Where each picture lies is found once by reading all headers, and kept in the user's cache folder
    (``XDG_CACHE_HOME``); pictures are then read by seeking.

    Args: as for ``ParquetSource``.

    Raises:
        UserError: if a tar cannot be read, holds no pictures, or a label is no integer.
    """

    suffix: ClassVar[str] = ".tar"

    def __init__(self, files: list[Path], train_classes: tuple[str, ...] | None = None) -> None:
        where = f"data.root: {files[0].parent}/*.tar"
        index = _tar_index(files)
        self._tars = [str(file) for file in files]
        self._tar, self._offset, self._size = index["tar"], index["offset"], index["size"]
        self._names = PackedStrings(os.fsdecode(index["names"].tobytes()).split("\n"))
        self._labels: np.ndarray | None = None
        labels = index["labels"]
        missing = int((labels < 0).sum())
        if missing == 0:
            self._labels, self.classes = _checked_labels(labels, None, where, train_classes)
        elif missing < len(labels):
            log.warning("data: %d of %d images in %s have no label, so none are used", missing, len(labels), where)
        self._open: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tar)

    def read(self, index: int) -> tuple[bytes, int | None]:
        try:
            data = os.pread(self._handle(int(self._tar[index])), int(self._size[index]), int(self._offset[index]))
        except OSError as error:
            raise BrokenSample(error.strerror or str(error)) from error
        if len(data) < self._size[index]:
            raise BrokenSample("the tar ends in the middle of this file")
        return data, None if self._labels is None else int(self._labels[index])

    def name(self, index: int) -> str:
        return f"{self._tars[self._tar[index]]}: {self._names[index]}"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}

    def _handle(self, tar: int) -> int:
        # pread carries its own offset, so handles that were open before a fork may be shared.
        if tar not in self._open:
            if len(self._open) >= _OPEN_TARS:
                os.close(self._open.popitem(last=False)[1])
            self._open[tar] = os.open(self._tars[tar], os.O_RDONLY)
        self._open.move_to_end(tar)
        return self._open[tar]


def _checked_labels(
    labels: np.ndarray, names: tuple[str, ...] | None, where: str, train_classes: tuple[str, ...] | None
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels and classes; neither where all labels are the -1 of an unlabelled test split."""
    if (labels < 0).all():
        return None, ()
    if (labels < 0).any():
        raise UserError(f"{where}: label {labels.min()} of image {labels.argmin()} is negative, while others are not.")
    if train_classes is not None:
        if names is not None and train_classes and names != train_classes:
            raise UserError(f"{where}: the names of its classes are not those of the training split.")
        names = train_classes
        if names and labels.max() >= len(names):
            raise UserError(f"{where}: label {labels.max()} is unknown in the training split ({len(names)} classes).")
    elif names is None:
        names = tuple(str(label) for label in range(int(labels.max()) + 1))
    return (labels, names) if names else (None, ())


def _image_column(features: "Features", where: str) -> str:
    from datasets import Image

    def holds_images(feature: object) -> bool:
        return isinstance(feature, Image) or (isinstance(feature, dict) and {"bytes", "path"} <= set(feature))

    found = [name for name, feature in features.items() if holds_images(feature)]
    if len(found) != 1:
        raise UserError(
            f"{where}: expected one column of images (struct with bytes and path), found {found or 'none'} "
            f"among {list(features)}."
        )
    return found[0]


def _label_column(features: "Features", where: str) -> str | None:
    from datasets import ClassLabel, Value

    candidates = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    name = next((name for name in ("label", "labels", "cls") if name in features), None)
    if name is None:
        return candidates[0] if len(candidates) == 1 else None
    feature = features[name]
    if isinstance(feature, ClassLabel) or (isinstance(feature, Value) and "int" in feature.dtype):
        return name
    raise UserError(f"{where}: column {name!r} is {feature}, and labels must be integers. Convert or rename it.")


def _tar_index(files: list[Path]) -> dict[str, np.ndarray]:
    """Where each picture lies; from the cache, if the files are the same as when it was written."""
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = blake2b(repr(stats).encode(), digest_size=12).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "d2v" / f"tar-index-{key}.npz"
    if cache.is_file():
        with np.load(cache) as stored:
            return dict(stored)
    index = _scan_tars(files)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        part = cache.with_suffix(f".{os.getpid()}.npz")
        np.savez(part, **index)  # type: ignore[arg-type]  # numpy's stubs confuse the names with allow_pickle
        part.replace(cache)
    except OSError as error:
        log.warning(
            "data: the index of the tars could not be kept in %s (%s); it is built anew each time", cache, error
        )
    return index


def _scan_tars(files: list[Path]) -> dict[str, np.ndarray]:
    rows: list[tuple[int, int, int]] = []
    names: list[str] = []
    keys: list[str] = []
    labels: dict[str, int] = {}
    for number, file in enumerate(tqdm(files, desc="reading tar headers", unit="tar")):
        try:
            with tarfile.open(file, "r:") as tar:
                for member in tar:
                    folder, _, base = member.name.rpartition("/")
                    stem, _, extension = base.partition(".")
                    if not member.isfile() or not stem:
                        continue
                    key = f"{number}:{folder}/{stem}"
                    suffix = "." + extension.lower().rpartition(".")[2]
                    if suffix in IMAGE_SUFFIXES:
                        rows.append((number, member.offset_data, member.size))
                        names.append(member.name)
                        keys.append(key)
                    elif suffix in (".cls", ".json"):
                        stream = tar.extractfile(member)
                        assert stream is not None
                        if (label := _parse_label(stream.read(), suffix, f"{file}: {member.name}")) is not None:
                            labels[key] = label
        except (tarfile.TarError, OSError) as error:
            raise UserError(f"data.root: {file} cannot be read as an uncompressed tar: {error}") from error
    if not rows:
        raise UserError(f"data.root: no images ({', '.join(IMAGE_SUFFIXES)}) in {files[0].parent}/*.tar.")
    tar_column, offset, size = np.array(rows, dtype=np.int64).T.copy()
    return {
        "tar": tar_column.astype(np.int32),
        "offset": offset,
        "size": size,
        "labels": np.array([labels.get(key, -1) for key in keys], dtype=np.int64),
        "names": np.frombuffer(os.fsencode("\n".join(names)), dtype=np.uint8),
    }


def _parse_label(data: bytes, suffix: str, where: str) -> int | None:
    """Label in a .cls (a number) or a .json (the entry "label" or "cls", if any)."""
    try:
        value = json.loads(data)
        if suffix == ".json" and isinstance(value, dict):
            value = next((value[key] for key in ("label", "cls") if key in value), None)
            if value is None:
                return None
    except ValueError:
        value = data
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"data.root: {where} holds {value!r}, and labels must be integers from 0.")
    return value

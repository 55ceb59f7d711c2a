"""Pictures in archives with random access: Hugging Face parquet and WebDataset tars."""

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from d2v.data.dataset import BrokenSample
from d2v.data.sources.parquet import encoded_column, load_parquet, named_column
from d2v.data.sources.tars import TarMembers
from d2v.errors import UserError
from d2v.modalities.vision.decoding import IMAGE_SUFFIXES
from d2v.modalities.vision.sources import ImageSource

if TYPE_CHECKING:
    from datasets import Dataset, Features

log = logging.getLogger(__name__)


class ParquetSource(ImageSource):
    """Parquet with a column of struct{bytes, path}.

    Args:
        files: of one split, in their order.
        train_classes: of the training split, to which the labels of this split must belong; None: this is it.

    Raises:
        UserError: if a file cannot be read, no column holds pictures or the labels are no integers.
    """

    suffix: ClassVar[str] = ".parquet"

    def __init__(self, files: list[Path], train_classes: tuple[str, ...] | None = None) -> None:
        from datasets import ClassLabel, Image

        where = f"data.root: {files[0].parent}/{files[0].name}"
        dataset = load_parquet(files, where)
        self._image = encoded_column(dataset.features, Image, "images", where)
        label = _label_column(dataset.features, where)
        self._dataset: Dataset = dataset.cast_column(self._image, Image(decode=False)).select_columns([self._image])
        self._files = [file.name for file in files]
        if label is not None:
            labels = np.asarray(dataset.with_format("numpy")[label][:], dtype=np.int64)
            feature = dataset.features[label]
            names = tuple(feature.names) if isinstance(feature, ClassLabel) else None
            self.labels, self.classes = _checked_labels(labels, names, where, train_classes)

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, index: int) -> tuple[bytes, int | None]:
        data = self._dataset[index][self._image]["bytes"]
        if data is None:
            raise BrokenSample("the row holds no bytes")
        return data, None if self.labels is None else int(self.labels[index])

    def paths(self) -> list[str | None]:
        """What the rows say that their files were called; no picture is read for it."""
        import pyarrow.compute as pc  # type: ignore[import-untyped]

        return pc.struct_field(self._dataset.data.column(self._image), "path").to_pylist()

    def name(self, index: int) -> str:
        path = self._path(index)
        return f"{self._files[0]}: row {index}" + (f" ({path})" if path else "")

    def file_names(self) -> list[str]:
        return [os.path.basename(path or "") for path in self.paths()]

    def _path(self, index: int) -> str | None:
        import pyarrow.compute as pc

        return pc.struct_field(self._dataset.data.column(self._image), "path")[index].as_py()


class TarSource(ImageSource):
    """Uncompressed tars in which ``KEY.jpg`` (or another picture) may stand beside ``KEY.cls`` or ``KEY.json``.

    Args: as for ``ParquetSource``.

    Raises:
        UserError: if a tar cannot be read, holds no pictures, or a label is no integer.
    """

    suffix: ClassVar[str] = ".tar"

    def __init__(self, files: list[Path], train_classes: tuple[str, ...] | None = None) -> None:
        where = f"data.root: {files[0].parent}/*.tar"
        self._members = TarMembers(files, "images", IMAGE_SUFFIXES, (".cls", ".json"), _parse_label)
        cls, json_entry = (self._members.beside[suffix] for suffix in (".cls", ".json"))
        labels = np.array([int(cls[i] or json_entry[i] or -1) for i in range(len(self._members))], dtype=np.int64)
        missing = int((labels < 0).sum())
        if missing == 0:
            self.labels, self.classes = _checked_labels(labels, None, where, train_classes)
        elif missing < len(labels):
            log.warning("data: %d of %d images in %s have no label, so none are used", missing, len(labels), where)

    def __len__(self) -> int:
        return len(self._members)

    def read(self, index: int) -> tuple[bytes, int | None]:
        return self._members.read(index), None if self.labels is None else int(self.labels[index])

    def place(self, index: int) -> tuple[str, str]:
        """The tar that a picture lies in, and what it is called there."""
        return self._members.place(index)

    def name(self, index: int) -> str:
        return self._members.name(index)

    def file_names(self) -> list[str]:
        return [os.path.basename(self._members.place(index)[1]) for index in range(len(self))]


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


def _label_column(features: "Features", where: str) -> str | None:
    from datasets import ClassLabel, Value

    candidates = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    name = named_column(features, ("label", "labels", "cls"))
    if name is None:
        return candidates[0] if len(candidates) == 1 else None
    feature = features[name]
    if isinstance(feature, ClassLabel) or (isinstance(feature, Value) and "int" in feature.dtype):
        return name
    raise UserError(f"{where}: column {name!r} is {feature}, and labels must be integers. Convert or rename it.")


def _parse_label(data: bytes, suffix: str, where: str) -> str | None:
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
    return str(value)

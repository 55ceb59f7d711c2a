"""Items of a torch data set of the user's own."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch.utils.data import IterableDataset

from d2v.data.file_index import PackedStrings
from d2v.data.sources.rows import Rows
from d2v.data.sources.source import COLUMNS, Categories, Medium, Source
from d2v.errors import BrokenSample, UserError
from d2v.progress_bar import Progress


def open_datasets(train: Any, val: Any, medium: Medium) -> tuple[Source, Source | None]:
    """The data sets of ``data.dataset`` and ``data.val_dataset``, if there is one; see :func:`open_dataset`."""
    if val is None:
        return open_dataset(train, medium), None
    return open_dataset(train, medium), open_dataset(val, medium, "data.val_dataset")


def open_dataset(dataset: Any, medium: Medium, key: str = "data.dataset") -> Source:
    """A data set as a source: one of torch (map-style), or one of Hugging Face's ``datasets``.

    Args:
        dataset: whatever has a length and items by number.
        medium: of the items.
        key: the option that named it, for messages.

    Raises:
        UserError: it has no items by number, none at all, or the first one holds nothing of this medium.
    """
    name = type(dataset).__name__
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UserError(
            f"{key}: {name} is no map-style data set; it needs __len__() and __getitem__(index), so that an order can "
            "be drawn and a run continued. Read a stream into a list, or give a DataLoader of it to your own L.Trainer"
        )
    try:
        count = len(dataset)
    except Exception as error:  # it is somebody else's code
        raise UserError(f"{key}: {name} does not tell its length ({type(error).__name__}: {error})") from error
    if count == 0:
        raise UserError(f"{key}: {name} has no items")
    if type(dataset).__module__.startswith("datasets."):
        return Rows(dataset, medium, key)
    return Items(dataset, medium, key)


class Items(Source):
    """Items of a data set: the sample itself, or a tuple or dict with it and perhaps a label."""

    def __init__(self, dataset: Any, medium: Medium, key: str) -> None:
        self._dataset = dataset
        self._medium = medium
        self._name = type(dataset).__name__
        try:
            self.read(0)
        except BrokenSample as error:
            raise UserError(f"{key}: item 0 of {self._name} is unusable: {error}") from error

    def __len__(self) -> int:
        return len(self._dataset)

    def open(self, index: int) -> Any:
        return self.read(index)

    def read(self, index: int) -> Any:
        """What the medium makes of an item: bytes, or what its decoder takes in place of bytes."""
        assert self._medium.from_item is not None
        try:
            return self._medium.from_item(self._dataset[index])
        except BrokenSample:
            raise
        except Exception as error:  # it is somebody else's code
            raise BrokenSample(f"{type(error).__name__}: {error}") from error

    def name(self, index: int) -> str:
        return f"{self._name}: item {index}"

    def ids(self) -> list[str]:
        return list(map(str, range(len(self))))

    def fingerprint(self) -> str:
        return ""  # nobody knows whether it has changed

    def categories(self, column: str) -> Categories | None:
        """By the attribute ``targets`` or ``labels``, as torchvision's data sets have it, or else from all items."""
        if column != "label":
            return None
        found: Sequence[Any] | None = getattr(self._dataset, "targets", None)
        if found is None:
            found = getattr(self._dataset, "labels", None)
        if found is None or len(found) != len(self):
            found = self._column(column)
        names = getattr(self._dataset, "classes", ())
        return Categories.of_labels([_plain(value, names) for value in found])

    def texts(self) -> PackedStrings | None:
        return PackedStrings(map(str, self._column("text")))

    def _column(self, column: str) -> list[Any]:
        """What all items say: a dict by the usual name, a tuple by the number or text that follows the sample."""
        values: list[Any] = []
        for index in Progress(range(len(self)), desc=f"reading {column}s", unit="item", leave=False):
            item = value = None
            with suppress(Exception):  # it is somebody else's code, and named when the item is read
                item = self._dataset[index]
            if isinstance(item, Mapping):
                value = entry(item, COLUMNS[column])
            elif isinstance(item, tuple | list) and column == "label":
                said = item[1:]
                if self._medium.feature == "Audio" and len(said) > 1:
                    said = said[1:]  # torchaudio's data sets give the sample rate first
                value = next(filter(_is_label, said), None)
            values.append("" if value is None else value)
        return values


def entry(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The value of the first of these names that an item has."""
    for name in names:
        if name in item:
            return item[name]
    return None


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int) or getattr(value, "ndim", None) == 0


def _plain(value: Any, names: Sequence[str]) -> str:
    """A label as text: the name of its class, where the data set names them."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, int) and 0 <= value < len(names):
        return str(names[value])
    return str(value)

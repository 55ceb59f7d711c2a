"""Where samples come from: one interface for files on a disk, Hugging Face parquet and WebDataset tars."""

import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from d2v.data.file_index import PackedStrings, fingerprint
from d2v.errors import BrokenSample, UserError, some_of
from d2v.regular_files import read_regular

Encoded = str | os.PathLike[str] | bytes | BinaryIO
"""A sample as it is stored: the path of its file, its content, or it opened for reading."""

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "label": ("label", "labels", "cls", "class", "category"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "text": (
        "text", "transcript", "transcription", "sentence", "normalized_text", "txt", "raw_transcription", "raw_text",
    ),
}  # fmt: skip
"""What archives may say about a sample, and usual names of the column or JSON entry; the first one found is taken."""


_NOT_PRINTABLE = re.compile(r"[\0-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Medium:
    """A modality's description of its files for the sources."""

    noun: str
    """What its samples are called in messages: images."""
    suffixes: tuple[str, ...]
    """Endings of its files, in lower case."""
    feature: str | None
    """Hugging Face's type of a column of such files: Image; None: it has none, and a column holds bytes and paths."""
    columns: tuple[str, ...] = ("label",)
    """Names in :data:`COLUMNS` of what is kept about a sample."""
    manifests: Mapping[str, "Callable[[Path], Files]"] = field(default_factory=dict)
    """Readers of files that list samples, by the files' ending."""
    unpacks_to: str | None = None
    """Folder that a usual archive unpacks to; a root that contains this folder stands for the folder."""
    speaker_of: Callable[[str], str] | None = None
    """Gives the speaker named in a file's path; empty if it names none."""
    texts_beside: "Callable[[Files], Iterable[str]] | None" = None
    """Reads the texts beside files; an empty text where there is none."""
    from_item: Callable[[Any], Any] | None = None
    """Finds a sample in an item of a data set of the user's own, as bytes or as the medium's decoder takes it; raises
    BrokenSample if there is none."""
    unreadable: tuple[str, ...] = ()
    """Endings of files of this kind that must be converted first."""
    conversion: str = "Convert {}"
    """What to do with these, for a message; {} are patterns of their names: *.heic *.svg."""


@dataclass(frozen=True)
class Listed:
    """Inputs that are named one by one, in place of a root: what a table of pairs has in one column."""

    cells: Sequence[str]
    """Paths of files, or texts; all different."""
    folder: str
    """Paths are relative to it."""
    where: str
    """What names them, for messages: an option, its value and the column."""


@dataclass(frozen=True)
class Categories:
    """One of a few names for each sample."""

    names: tuple[str, ...]
    ids: np.ndarray
    """int32 [n]: which name; -1 where a sample has none."""

    @classmethod
    def of(cls, values: Iterable[str]) -> "Categories | None":
        """Number the names in alphabetical order. An empty name means that there is none; None if all are empty."""
        numbers = {"": -1}
        ids = np.fromiter((numbers.setdefault(value, len(numbers) - 1) for value in values), dtype=np.int32)
        names = sorted(numbers.keys() - {""})
        if not names:
            return None
        place = np.full(len(names) + 1, -1, dtype=np.int32)  # the last is that of -1
        for number, name in enumerate(names):
            place[numbers[name]] = number
        return cls(tuple(names), place[ids])

    @classmethod
    def of_labels(cls, values: Iterable[str]) -> "Categories | None":
        """Like :meth:`of`, but whole numbers are the numbers of the classes: with 0 and 2 there are three classes."""
        found = cls.of(values)
        if found is None or not "".join(found.names).isdecimal():
            return found
        if max(map(int, found.names)) > 1000 + 10 * len(found.names):
            return found  # dates or ids, which count no classes
        numbers = np.array([*map(int, found.names), -1], dtype=np.int32)
        return cls(tuple(map(str, range(numbers.max() + 1))), numbers[found.ids])

    @classmethod
    def joined(cls, parts: "Sequence[Categories | None]", sizes: Sequence[int]) -> "Categories | None":
        """The categories of several numbers of samples, one after the other; None if no part has any."""
        names = tuple(sorted(set(chain.from_iterable(part.names for part in parts if part is not None))))
        if not names:
            return None
        ids = []
        for part, size in zip(parts, sizes, strict=True):
            if part is None:
                ids.append(np.full(size, -1, dtype=np.int32))
            else:
                ids.append(part.numbered_as(names, "").ids)
        return cls(names, np.concatenate(ids))

    def numbered_as(self, names: tuple[str, ...], where: str) -> "Categories":
        """The same categories, numbered by the names of the training split.

        Raises:
            UserError: a sample has a name that the training split lacks; ``where`` begins the message.
        """
        numbers = dict(zip(names, range(len(names)), strict=True))
        place = np.full(len(self.names) + 1, -1, dtype=np.int32)
        unknown = []
        for number in self.used():
            place[number] = numbers.get(self.names[number], -1)
            if place[number] < 0:
                unknown.append(self.names[number])
        if unknown:
            raise UserError(
                f"{where}: the validation split has classes that the training split has not: {some_of(unknown, 5)}. "
                "Choose another data.val_split, or hold out part of the training samples: data.val_fraction 0.05."
            )
        return Categories(names, place[self.ids])

    def label(self, index: int) -> int:
        """The class of one sample."""
        return int(self.ids[index])

    def used(self) -> np.ndarray:
        """Numbers, ascending, of the names that occur."""
        return np.unique(self.ids[self.ids >= 0])

    def __getitem__(self, chosen: np.ndarray) -> "Categories":
        """The categories of some samples, given by positions or a mask."""
        return Categories(self.names, self.ids[chosen])

    @property
    def complete(self) -> bool:
        """Whether every sample has a name, and there is more than one name."""
        return len(self.names) > 1 and bool((self.ids >= 0).all())


class Source(ABC):
    """Encoded samples with random access, in an order that depends on their names alone.

    What grows with the number of samples lies in numpy arrays, which worker processes share by fork; a source can also
    be pickled for them.
    """

    folder: str = ""
    """Where it lies, if that is known."""
    archives: Sequence[str] = ()
    """Files that hold several samples each."""
    left_out: Sequence[str] | PackedStrings = ()
    """Files beside the samples that have other endings."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def open(self, index: int) -> Encoded:
        """A sample for a decoder that may want only part of it; raises BrokenSample if it cannot be read."""

    @abstractmethod
    def read(self, index: int) -> Any:
        """All bytes of a sample, or what its medium makes of an item; raises BrokenSample if it cannot be read."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call a sample in messages."""

    @abstractmethod
    def ids(self) -> list[str]:
        """What to call all samples in results: short, and all different."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when a file does."""

    @abstractmethod
    def categories(self, column: str) -> Categories | None:
        """Label or speaker of each sample, or the top folder that it lies in (``folder``); None if not known."""

    @abstractmethod
    def texts(self) -> PackedStrings | None:
        """Text of each sample, empty where there is none; None if texts are not known."""


@dataclass(frozen=True)
class Part:
    """Some samples of a source. Fields that a subclass adds are columns: a value for each sample, or None."""

    source: Source
    index: np.ndarray
    """int [n]: positions in the source."""

    def __len__(self) -> int:
        return len(self.index)

    def name(self, index: int) -> str:
        """What to call a sample in messages."""
        return self.source.name(int(self.index[index]))

    def names(self) -> list[str]:
        """What each sample is called, with its folders."""
        ids = self.source.ids()
        return [ids[index] for index in self.index]

    def select(self, chosen: np.ndarray) -> Self:
        """Some of the samples, given by positions or a mask."""
        columns = {}
        for name, column in vars(self).items():
            if name != "source" and column is not None:
                columns[name] = column[chosen]
        return replace(self, **columns)


class Files(Source):
    """Files on a disk.

    Args:
        medium: of the files.
        folder: that their names are relative to.
        names: of the files.
        texts: texts of the files, empty where there is none; None: texts may lie beside the files.
        known: what is known of their ``folder`` and ``speaker``; None: what their names say.
        stamp: changes when a file does; empty: the files themselves are asked.
    """

    endings: Mapping[str, int] | None = None
    """How many have which ending, where that was counted."""

    def __init__(
        self,
        medium: Medium,
        folder: str | Path,
        names: Sequence[str] | PackedStrings,
        texts: Iterable[str] | None = None,
        known: Mapping[str, Categories | None] | None = None,
        stamp: str = "",
    ) -> None:
        self.folder = os.path.abspath(folder)
        self._medium = medium
        self._names = names if isinstance(names, PackedStrings) else PackedStrings(names)
        self._known = dict(known or {})
        self._stamp = stamp
        self._texts: PackedStrings | None = None
        if texts is not None:
            self._texts = PackedStrings(texts)

    @classmethod
    def joined(cls, parts: Sequence["Files"]) -> "Files":
        """Several as one, in their order."""
        if len(parts) == 1:
            return parts[0]
        folder = os.path.commonpath([part.folder for part in parts])
        names = []
        for part in parts:
            prefix = os.path.join(os.path.relpath(part.folder, folder), "")
            names.append((prefix.removeprefix(f".{os.sep}"), part._names))
        known = {}
        for column in ("folder", "speaker"):
            found = [part.categories(column) for part in parts]
            known[column] = Categories.joined(found, list(map(len, parts)))
        texts: list[str] = []
        if any(part._texts is not None for part in parts):
            for part in parts:
                texts += part.texts() or [""] * len(part)
        stamp = ""
        if any(part._stamp for part in parts):
            stamp = " ".join(part.fingerprint() for part in parts)
        whole = cls(parts[0]._medium, folder, PackedStrings.joined(names), texts or None, known, stamp)
        whole.left_out = list(chain.from_iterable(part.left_out for part in parts))
        if all(part.endings is not None for part in parts):
            whole.endings = sum((Counter(part.endings) for part in parts), Counter())
        return whole

    @classmethod
    def unpacked(cls, medium: Medium, folder: str | Path, arrays: Mapping[str, np.ndarray]) -> "Files":
        """The files that :meth:`packed` stored; ``stamp`` may be among the arrays."""
        known: dict[str, Categories | None] = {}
        for column in ("folder", "speaker"):
            names = tuple(PackedStrings.unpacked(arrays, f"{column} names"))
            known[column] = Categories(names, arrays[column]) if names else None
        stamp = arrays["stamp"].tobytes().hex() if "stamp" in arrays else ""
        files = cls(medium, folder, PackedStrings.unpacked(arrays, "names"), None, known, stamp)
        files.left_out = PackedStrings.unpacked(arrays, "left out")
        kinds = PackedStrings.unpacked(arrays, "endings")
        files.endings = dict(zip(kinds, arrays["numbers"].tolist(), strict=True))
        return files

    def packed(self) -> dict[str, np.ndarray]:
        """All about the files as arrays, to be stored in a file."""
        assert self.endings is not None
        arrays = {**self._names.packed("names"), **PackedStrings(self.left_out).packed("left out")}
        arrays |= PackedStrings(self.endings).packed("endings")
        arrays["numbers"] = np.array([*self.endings.values()], dtype=np.int64)
        for column in ("folder", "speaker"):
            found = self.categories(column) or Categories((), np.zeros(0, dtype=np.int32))
            arrays |= {column: found.ids, **PackedStrings(found.names).packed(f"{column} names")}
        return arrays

    def without(self, other: "Files") -> "Files":
        """The files that are not among the other's."""
        taken = {os.path.normpath(other.name(index)) for index in range(len(other))}
        names = []
        for name in self._names:
            if os.path.normpath(os.path.join(self.folder, name)) not in taken:
                names.append(name)
        if len(names) == len(self):
            return self
        rest = Files(self._medium, self.folder, names)
        rest.left_out = self.left_out
        return rest

    def __len__(self) -> int:
        return len(self._names)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_texts": None, "left_out": ()}  # worker processes get the texts as labels

    def open(self, index: int) -> str:
        return self.name(index)

    def read(self, index: int) -> bytes:
        try:
            return read_regular(self.name(index))
        except OSError as error:
            raise BrokenSample(error.strerror or str(error)) from error

    def name(self, index: int) -> str:
        return os.path.join(self.folder, self._names[index])

    def ids(self) -> list[str]:
        return list(map(printable, self._names))

    def fingerprint(self) -> str:
        if self._stamp:
            return fingerprint((), (self.folder, self._stamp))
        return fingerprint(map(self.name, range(len(self))))

    def categories(self, column: str) -> Categories | None:
        if column not in self._known:
            found = None
            if column == "folder":
                found = Categories.of(map(_top_folder, self._names))
            elif column == "speaker" and self._medium.speaker_of is not None:
                found = Categories.of(map(self._medium.speaker_of, self._names))
            self._known[column] = found
        return self._known[column]

    def texts(self) -> PackedStrings | None:
        if self._texts is None and self._medium.texts_beside is not None:
            self._texts = PackedStrings(self._medium.texts_beside(self))
        return self._texts


def _top_folder(name: str) -> str:
    return name.rpartition(os.sep)[0].partition(os.sep)[0]


def printable(name: str) -> str:
    """A name in one line, in which bytes that are not UTF-8 are escaped too: \\udcff."""
    return _NOT_PRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), name)

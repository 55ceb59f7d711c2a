"""Where pictures come from: what each kind of source offers, and folders of files."""

import logging
import os
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from d2v.data.dataset import BrokenSample
from d2v.data.files import PackedStrings, list_files
from d2v.errors import UserError
from d2v.modalities.vision.decoding import IMAGE_SUFFIXES

log = logging.getLogger(__name__)


class ImageSource(ABC):
    """Encoded pictures with random access, in an order that depends on their names alone.

    Everything that grows with the number of pictures is a numpy array, which worker processes share by fork; a list of
    a million Python strings would be copied page by page, because counting references writes to it.
    """

    classes: tuple[str, ...] = ()
    """Names of the classes by label; empty without labels."""
    labels: np.ndarray | None = None
    """Label of each picture, if they have any."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of pictures."""

    @abstractmethod
    def read(self, index: int) -> tuple[bytes, int | None]:
        """Encoded bytes and label; raises BrokenSample if they cannot be read."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call the picture in a message or a table."""

    def file_names(self) -> list[str]:
        """The last parts of the paths of all pictures."""
        return [os.path.basename(self.name(index)) for index in range(len(self))]


class SubsetSource(ImageSource):
    """Some pictures of another source."""

    def __init__(self, source: ImageSource, indices: np.ndarray) -> None:
        self.classes = source.classes
        self.labels = None if source.labels is None else source.labels[indices]
        self._source = source
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> tuple[bytes, int | None]:
        return self._source.read(int(self._indices[index]))

    def name(self, index: int) -> str:
        return self._source.name(int(self._indices[index]))

    def file_names(self) -> list[str]:
        names = self._source.file_names()
        return [names[index] for index in self._indices]


class FolderSource(ImageSource):
    """Picture files below a folder.

    Args:
        folder: where to look, at any depth; names that begin with a dot are left out, links are followed.
        classes: of the training split, whose labels this split shares; None: the folders directly below are the
            classes, provided that there are two or more and every picture lies in one.
        exclude: folder directly below that belongs to another split.

    Raises:
        UserError: without pictures, or with a class that the training split does not have.
    """

    def __init__(self, folder: Path, classes: tuple[str, ...] | None = None, exclude: str | None = None) -> None:
        self._folder = str(folder)
        files = list_files(folder, IMAGE_SUFFIXES, exclude)
        if not files:
            raise UserError(f"data.root: no images ({', '.join(IMAGE_SUFFIXES)}) in {folder} or below.")
        tops = [file.split(os.sep, 1)[0] if os.sep in file else "" for file in files]
        found = sorted(set(tops))
        loose = tops.count("")
        if classes is None:
            labelled = loose == 0 and len(found) > 1
            if loose and len(found) > 1:
                log.warning(
                    "data: %d images lie directly in %s, so its folders are not taken for classes", loose, folder
                )
            self.classes = tuple(found) if labelled else ()
        else:
            self.classes = classes
            unknown = [top or "." for top in found if top not in classes]
            if classes and unknown:
                raise UserError(
                    f"data.root: {folder} has folders that are no class of the training split: {', '.join(unknown[:5])}"
                    f"{' ...' if len(unknown) > 5 else ''}. Rename or remove them, or add them to the training split."
                )
        if self.classes:
            _warn_of_empty_classes(folder, set(found), exclude)
        self._files = PackedStrings(files)
        labels = {name: label for label, name in enumerate(self.classes)}
        self.labels = np.array([labels[top] for top in tops], dtype=np.int32) if labels else None

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> tuple[bytes, int | None]:
        try:
            with open(self.name(index), "rb", buffering=0) as file:
                data = file.read()
        except OSError as error:
            raise BrokenSample(error.strerror or str(error)) from error
        return data, None if self.labels is None else int(self.labels[index])

    def name(self, index: int) -> str:
        return os.path.join(self._folder, self._files[index])


def _warn_of_empty_classes(folder: Path, found: set[str], exclude: str | None) -> None:
    folders = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    for name in sorted(folders - found - {exclude}):
        log.warning("data: %s has no images and is left out as a class", folder / name)

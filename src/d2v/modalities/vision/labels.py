"""Classes of pictures: from the folders that they lie in, from archives, or from a table."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from d2v.data.sources.label_table import read_labels
from d2v.data.sources.source import Categories, Files, Part, Source
from d2v.data.sources.splits import VAL_NAMES
from d2v.errors import UserError
from d2v.modalities.vision.decoding import IMAGES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pictures(Part):
    """Some pictures of a source, and the class of each; None without labels."""

    classes: Categories | None = None


def all_pictures(source: Source) -> Pictures:
    """The pictures of a source, without their classes."""
    return Pictures(source, np.arange(len(source), dtype=np.int32))


def with_classes(name: str, pictures: Pictures, table: str | None = None, train: Categories | None = None) -> Pictures:
    """Those pictures that have a class, with it; without any labels all of them.

    Args:
        name: of the split, for messages.
        pictures: of the split.
        table: of files and classes; None: the classes that archives state, or the folders directly below a split.
        train: classes of the training split, which those of this split must be among; None: this is it, and its folders
            are classes if they are several and hold all pictures.

    Raises:
        UserError: the labels are no classes, or not those of the training split.
    """
    if table is not None:
        classes: Categories | None = _in_table(Path(table).expanduser(), pictures)
    elif isinstance(pictures.source, Files):
        classes = _of_folders(pictures.source, is_train=train is None)
    else:
        classes = pictures.source.categories("label")
    if classes is None:
        return pictures
    if table is None:
        classes = classes[pictures.index]
    kept = np.flatnonzero(classes.ids >= 0)
    if len(kept) < len(pictures):
        left_out = len(pictures) - len(kept)
        rank_zero_info(f"data: {name}: left out {left_out:,} of {len(pictures):,} images, which have no class")
    if train is not None:
        classes = classes.numbered_as(train.names, "data.root" if table is None else f"data.labels {table}")
    return replace(pictures, classes=classes).select(kept)


def _in_table(path: Path, pictures: Pictures) -> Categories:
    table, labels = read_labels(path, IMAGES.suffixes)
    names = list(map(pictures.name, range(len(pictures))))
    if pictures.source.archives:
        ids = pictures.source.ids()
        names = [ids[index] for index in pictures.index]
    _, rows = table.files(names, "data.labels")
    several = [row for row in rows if row >= 0 and len(labels[row]) > 1]
    if several:
        raise UserError(
            f"{table.line(several[0])}: a picture has one class, and here are {', '.join(labels[several[0]])}"
        )
    labels.append(("",))  # that of row -1: not in the table
    classes = Categories.of([labels[row][0] for row in rows])
    if classes is None:
        raise UserError(f"data.labels {path}: no row names one of the pictures, the first of which is {names[0]}")
    return classes


def _of_folders(source: Files, is_train: bool) -> Categories | None:
    """The folders directly below a split, by all of its pictures."""
    classes = source.categories("folder")
    if classes is None or (is_train and len(classes.names) < 2):
        return None
    without = np.flatnonzero(classes.ids < 0)
    if len(without):
        first = source.name(int(without[0]))
        text = "data: %d of %d images have no class, so the classes of the others are not used (the first: %s)"
        log.warning(text, len(without), len(source), first)
        return None
    known = {*classes.names, *VAL_NAMES}
    for folder in sorted(Path(source.folder).iterdir()):
        if folder.name not in known and not folder.name.startswith(".") and folder.is_dir():
            log.warning("data: %s has no images and is left out as a class", folder)
    return classes

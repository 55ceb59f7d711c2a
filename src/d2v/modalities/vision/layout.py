"""What lies in a root, and which of it is for training.

A root is one of
  - a tree with a folder a split (``d2v.data.sources.splits`` knows their names), and a folder a class below each;
  - one tree of any nesting: all of it is for training, and its top folders are the classes;
  - Hugging Face parquet or WebDataset tars: a folder a split, or the names of splits among the words of theirs.
"""

from pathlib import Path

from d2v.data.sources.splits import archives_beside, files_in, find_splits, of_one_ending
from d2v.errors import UserError
from d2v.modalities.vision.archives import ParquetSource, TarSource
from d2v.modalities.vision.sources import FolderSource, ImageSource

_KINDS = {kind.suffix: kind for kind in (ParquetSource, TarSource)}


def open_sources(root: str, train_split: str | None, val_split: str | None) -> tuple[ImageSource, ImageSource | None]:
    """Recognise what lies in ``root`` and open its training and validation split.

    Args:
        root: a folder.
        train_split: name of the training split; None: train/, or everything.
        val_split: name of the validation split; None: the first usual name that is there.

    Returns:
        Training and validation source; None if there is no validation split.

    Raises:
        UserError: if there is no such folder, no pictures in it, or the labels do not fit together.
    """
    folder = Path(root).expanduser()
    if not folder.exists():
        raise UserError(f"data.root {root} does not exist. Set it to the folder that holds the images.")
    if not folder.is_dir():
        raise UserError(f"data.root {root} is a file. Set it to the folder that holds the images.")
    found = find_splits(folder, tuple(_KINDS), (), train_split, val_split)
    val_places = found.val or []
    if found.train is not None:
        train = _opened(found.train)
    elif beside := archives_beside(folder, tuple(_KINDS)):
        files = [file for file in beside if file not in val_places]
        if not files:
            raise UserError(f"data.root {root}: {val_places[0].name} is there, but nothing to train on.")
        train = _opened(files)
    else:
        train = FolderSource(folder, exclude=val_places[0].name if val_places else None)
    return train, _opened(val_places, train.classes) if val_places else None


def _opened(places: list[Path], classes: tuple[str, ...] | None = None) -> ImageSource:
    files = places
    if places[0].is_dir():
        files = of_one_ending(files_in(places[0], tuple(_KINDS)), tuple(_KINDS))
    if files:
        return _KINDS[files[0].suffix.lower()](files, classes)
    return FolderSource(places[0], classes)

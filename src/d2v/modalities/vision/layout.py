"""What lies in a root, and which of it is for training.

A root is one of
  - a tree with ``train/`` and ``val/`` (or ``validation/``, ``test/``), a folder a class below each;
  - one tree of any nesting: all of it is for training, and its top folders are the classes;
  - Hugging Face parquet: ``train-*.parquet``, ``validation-*.parquet`` in the root or ``data/``;
  - WebDataset tars in ``train/`` and ``val/``, or in the root with these words in their names.
"""

from pathlib import Path

from d2v.data.files import VAL_NAMES, archives_of_splits
from d2v.errors import UserError
from d2v.modalities.vision.archives import ParquetSource, TarSource
from d2v.modalities.vision.sources import FolderSource, ImageSource


def open_sources(root: str, train_split: str, val_split: str | None) -> tuple[ImageSource, ImageSource | None]:
    """Recognise what lies in ``root`` and open its training and validation split.

    Args:
        root: a folder.
        train_split: name of the training split.
        val_split: name of the validation split; None: the first of val, validation, valid, test that exists.

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
    val_names = VAL_NAMES if val_split is None else (val_split,)
    for source in (ParquetSource, TarSource):
        train_files, val_files = archives_of_splits(folder, source.suffix, train_split, val_names)
        if train_files:
            train = source(train_files)
            return train, source(val_files, train.classes) if val_files else None
        if val_files:
            raise UserError(f"data.root {root}: {val_files[0].name} is there, but no {train_split}*{source.suffix}.")
    val_folder = next((name for name in val_names if (folder / name).is_dir()), None)
    has_train = (folder / train_split).is_dir()
    # Without train/ everything is for training, but never the pictures of a val/.
    images = FolderSource(folder / train_split) if has_train else FolderSource(folder, exclude=val_folder)
    return images, None if val_folder is None else FolderSource(folder / val_folder, images.classes)

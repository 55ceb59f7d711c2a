"""What lies in a root, opened as sources: its splits, or all that is in it.

A root is one of
  - a tree with a folder a split, ``train/`` and ``val/`` or others of the names in ``splits.py``;
  - archives, Hugging Face parquet or WebDataset tars: a folder a split, or the split's name among the words of theirs;
  - manifests, files that list samples, if the medium has any: one a split, of its very name;
  - any other folder, a file or a glob: all of it is for training.
"""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from d2v.data.file_index import list_files
from d2v.data.sources.parquet import Parquet
from d2v.data.sources.source import Files, Medium, Source
from d2v.data.sources.splits import (
    TRAIN_NAMES,
    VAL_NAMES,
    archives_beside,
    ending,
    files_in,
    find_splits,
    of_one_ending,
)
from d2v.data.sources.tars import Tars
from d2v.errors import UserError

ARCHIVES = (".parquet", ".tar")


def open_splits(
    root: str, medium: Medium, train_split: str | None = None, val_split: str | None = None
) -> tuple[Source, Source | None]:
    """Open the training split of a root and its validation split, if there is one.

    Args:
        root: a folder, an archive, a manifest, a file of the medium, or a glob of such files.
        medium: of the samples.
        train_split: names of splits, comma-separated; None: train/, or everything but the validation split.
        val_split: likewise; None: the first usual name that is there.

    Raises:
        UserError: there is no such root or split, or no sample in it.
    """
    path = _existing(root, medium)
    if path is not None and medium.unpacks_to is not None and (path / medium.unpacks_to).is_dir():
        path = path / medium.unpacks_to
    if path is None or path.is_file():
        train = _globbed(root, medium) if path is None else _from_file(path, medium)
        return train, _beside(path, medium, train_split, val_split)
    found = find_splits(path, ARCHIVES, tuple(medium.manifests), train_split, val_split)
    val_places = found.val or []
    if found.train is not None:
        train = _opened(found.train, medium, path)
    elif archives := archives_beside(path, ARCHIVES):
        for_training = [file for file in archives if file not in val_places]
        if not for_training:
            raise UserError(f"data.root {root}: {val_places[0].name} is there, and nothing to train on.")
        train = _opened(for_training, medium, path)
    else:
        # Everything is for training, but never the validation split.
        train = _from_folder(path, medium, exclude=val_places[0].name if val_places else None)
    return train, _opened(val_places, medium, path) if val_places else None


def open_everything(root: str, medium: Medium, key: str = "data.root") -> Source:
    """Open all samples in a root, whatever split they belong to: files, else archives, else those in manifests.

    Args:
        root: as in :func:`open_splits`.
        medium: of the samples.
        key: the option that gives the root, for messages.

    Raises:
        UserError: there is no such root, or no sample in it.
    """
    try:
        path = _existing(root, medium)
        if path is None:
            return _globbed(root, medium)
        if path.is_file():
            return _from_file(path, medium)
        if list_files(path, medium.suffixes):
            return _from_folder(path, medium)
        for suffix in (*ARCHIVES, *medium.manifests):
            if files := list_files(path, (suffix,)):
                return _opened([path / file for file in files], medium, path)
        return _from_folder(path, medium)
    except UserError as error:
        raise UserError(str(error).replace("data.root", key)) from error


def _existing(root: str, medium: Medium) -> Path | None:
    """The path of a root; None if it is a glob."""
    path = Path(root).expanduser()
    if path.exists():
        return path
    if glob.has_magic(root):
        return None
    raise UserError(f"data.root {root} does not exist. Set it to the folder, file or glob that has the {medium.noun}.")


def _beside(path: Path | None, medium: Medium, train_split: str | None, val_split: str | None) -> Source | None:
    """The validation split for a root that is a file or (None) a glob."""
    manifests = tuple(medium.manifests)
    folder = Path.cwd()
    if path is not None:
        folder = path.parent
        is_manifest = ending(path.name) in manifests
        if is_manifest and train_split not in (None, path.stem):
            raise UserError(f"data.train_split {train_split}: data.root is the one manifest {path}; give its folder.")
        if is_manifest and val_split is None and path.stem in TRAIN_NAMES:
            val_split = next((name for name in VAL_NAMES if path.with_stem(name).is_file()), None)
    if val_split is None:
        return None
    places = find_splits(folder, ARCHIVES, manifests, None, val_split).val
    assert places is not None
    return _opened(places, medium, folder)


def _opened(places: Sequence[Path], medium: Medium, root: Path) -> Source:
    """Folders, manifests or archives as one source."""
    archives: list[Path] = []
    parts: list[Files] = []
    for place in places:
        inside = of_one_ending(files_in(place, ARCHIVES), ARCHIVES)
        if ending(place.name) in ARCHIVES and not place.is_dir():
            archives.append(place)
        elif inside:
            archives += inside
        elif place.is_dir():
            parts.append(_from_folder(place, medium))
        else:
            parts.append(medium.manifests[ending(place.name)](place))
    if not archives:
        return Files.joined(parts)
    if parts or len({ending(file.name) for file in archives}) > 1:
        raise UserError(
            f"data.root {root}: {', '.join(place.name for place in places)} are no files of one kind; name splits that "
            "are, or extract the archives."
        )
    if ending(archives[0].name) == ".parquet":
        return Parquet(archives, medium)
    return Tars(archives, medium, root)


def _from_file(path: Path, medium: Medium) -> Source:
    if ending(path.name) in (*ARCHIVES, *medium.manifests):
        return _opened([path], medium, path.parent)
    if ending(path.name) in medium.suffixes:
        return Files(medium, path.parent, [path.name])
    kinds = [*medium.manifests, *ARCHIVES, *medium.suffixes]
    raise UserError(f"data.root {path} is a file of no known kind; {medium.noun} are read from {', '.join(kinds)}.")


def _from_folder(folder: Path, medium: Medium, exclude: str | None = None) -> Files:
    names = list_files(folder, medium.suffixes, exclude)
    if names:
        return Files(medium, folder, names)
    hint = ""
    if unreadable := list_files(folder, medium.unreadable):
        count, kind = len(unreadable), ending(unreadable[0])
        hint = f" d2v cannot read the {count} {kind} files there: convert them to {medium.suffixes[0]}."
    raise UserError(f"data.root: no {medium.noun} ({', '.join(medium.suffixes)}) in {folder} or below.{hint}")


def _globbed(pattern: str, medium: Medium) -> Files:
    found = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    files = [os.path.abspath(file) for file in found if file.lower().endswith(medium.suffixes) and os.path.isfile(file)]
    if not files:
        raise UserError(f"data.root: no {medium.noun} ({', '.join(medium.suffixes)}) matches {pattern}.")
    folder = os.path.commonpath([os.path.dirname(file) for file in files])
    return Files(medium, folder, [os.path.relpath(file, folder) for file in files])

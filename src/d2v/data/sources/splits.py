"""Which of what lies in a root is which split: the same names and the same rules for every medium."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from d2v.errors import UserError

TRAIN_NAMES = ("train", "training")
"""Names of a training split, in the order in which they are looked for."""

VAL_NAMES = (
    "dev-clean", "dev-clean-2", "dev-clean-5", "dev", "dev-other",
    "val", "validation", "valid", "eval", "test",
)  # fmt: skip
"""Names of a validation split, in the order in which they are looked for."""

EndingOf = Callable[[str], str]
"""From the name of a file to its ending, in lower case; one that knows compressed files leaves that ending out."""


class Splits(NamedTuple):
    """Where the splits of a root lie: each a folder, or one or more files."""

    train: list[Path] | None
    """None: nothing is called a training split, so everything but ``val`` is for training."""
    val: list[Path] | None


def ending(name: str) -> str:
    """The last ending of a file's name, in lower case."""
    return os.path.splitext(name)[1].lower()


def find_splits(
    root: Path, archives: Sequence[str], manifests: Sequence[str], train_split: str | None, val_split: str | None
) -> Splits:
    """Find the training and the validation split of a root.

    A split that nobody named is the first of :data:`TRAIN_NAMES` (else all folders that begin with ``train-``) and the
    first of :data:`VAL_NAMES` that is there in the same form: beside a folder with the training files, an archive is no
    validation split, but what some other folder was extracted from.

    Args:
        root: a folder.
        archives: endings of files that hold several samples; the first that occurs is taken.
        manifests: endings of files that list samples; these have the very name of the split.
        train_split: names, comma-separated; None: found as above.
        val_split: likewise.

    Raises:
        UserError: a split that was named is not there.
    """

    def find(name: str) -> list[Path]:
        exact = find_split(root, name, (*archives, *manifests), by_word=False)
        return exact or find_split(root, name, archives)

    def named(names: str, key: str) -> list[Path]:
        found: list[Path] = []
        for name in listed(names):
            parts = find(name)
            if not parts:
                raise not_there(root, name, key, (*archives, *manifests))
            found += [part for part in parts if part not in found]
        if not found:
            raise UserError(f"data.{key} is {names!r}: it names no split; give a name, or null.")
        return found

    if train_split is not None:
        train: list[Path] | None = named(train_split, "train_split")
    else:
        train = _training(root, archives, manifests)
    if val_split is not None:
        return Splits(train, named(val_split, "val_split"))
    form = _form(train or archives_beside(root, archives) or [root], archives)
    for name in VAL_NAMES:
        found = [path for path in find(name) if path not in (train or ())]
        if found and _form(found, archives) == form:
            return Splits(train, found)
    return Splits(train, None)


def find_split(
    root: Path, name: str, endings: Sequence[str], ending_of: EndingOf = ending, by_word: bool = True
) -> list[Path]:
    """Find one split: a folder of its name, or else files in ``root``, or else files in ``root/data``.

    Files have the very name of the split, ``train.tsv``, or else its name among the words of theirs,
    ``train-00000-of-00002.parquet``: GLUE's ``dev_ids.tsv`` beside ``dev.tsv`` is no part of a split.

    Args:
        root: a folder.
        name: of the split; upper and lower case are the same.
        endings: of its files; those of the first ending that occurs are taken.
        ending_of: finds the ending of a file.
        by_word: whether the name may be one of several words.

    Returns:
        The folder, or the files in the order of their names; nothing if there is no such split.
    """
    folder = _folder(root, name)
    if folder is not None:
        return [folder]
    for place in (root, root / "data"):
        files = files_in(place, endings, ending_of)
        exact = [file for file in files if _words(_stem(file, ending_of)) == _words(name)]
        found = exact or [file for file in files if by_word and _words(name) in _words(file.name)]
        if found:
            return of_one_ending(found, endings, ending_of)
    return []


def files_in(folder: Path, endings: Sequence[str], ending_of: EndingOf = ending) -> list[Path]:
    """Files directly in a folder that have one of these endings, sorted; none if there is no such folder."""
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if ending_of(path.name) in endings and not path.name.startswith(".")]
    return sorted(path for path in files if not path.is_dir())


def of_one_ending(files: Sequence[Path], endings: Sequence[str], ending_of: EndingOf = ending) -> list[Path]:
    """Those of the first ending that occurs: a README.txt beside tables is none of them."""
    for wanted in endings:
        chosen = [file for file in files if ending_of(file.name) == wanted]
        if chosen:
            return chosen
    return []


def listed(names: str | None) -> list[str]:
    """Names of splits as a user writes them, separated by commas."""
    if names is None:
        return []
    return [name.strip() for name in names.split(",") if name.strip()]


def not_there(root: Path, name: str, key: str, endings: Sequence[str]) -> UserError:
    """The error for a split that somebody named and that is not in ``root``; ``key`` is the data.KEY that names it."""
    there = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    shown = "is nothing"
    if there:
        shown = f"are: {', '.join(there[:12])}"
    if len(there) > 12:
        shown += " ..."
    default = "take train/ or everything"
    if key != "train_split":
        default = f"take the first of {', '.join(VAL_NAMES)}, if any"
    return UserError(
        f"data.{key}: there is no folder {name} and no {' or '.join(endings)} file with this word in its name in "
        f"{root}; there {shown}. Set data.{key} to what is there, or to null to {default}."
    )


def archives_beside(root: Path, archives: Sequence[str]) -> list[Path]:
    """Archives in ``root``, or if there are none in ``root/data``: those of the first ending that occurs."""
    for place in (root, root / "data"):
        if found := of_one_ending(files_in(place, archives), archives):
            return found
    return []


def _training(root: Path, archives: Sequence[str], manifests: Sequence[str]) -> list[Path] | None:
    """An extracted split comes before the archive that it was extracted from, and a whole one before parts."""
    for name in TRAIN_NAMES:
        if found := find_split(root, name, (*archives, *manifests), by_word=False):
            return found
    if parts := sorted(path for path in root.iterdir() if path.is_dir() and path.name.startswith("train-")):
        return parts
    for name in TRAIN_NAMES:
        if found := find_split(root, name, archives):
            return found
    return None


def _form(places: Sequence[Path], archives: Sequence[str]) -> str:
    """The ending of the archives that a split consists of; empty for a folder of samples and for a manifest."""
    first = places[0]
    if first.is_dir():
        inside = of_one_ending(files_in(first, archives), archives)
        return ending(inside[0].name) if inside else ""
    return ending(first.name) if ending(first.name) in archives else ""


def _folder(root: Path, name: str) -> Path | None:
    if (root / name).is_dir():
        return root / name
    for path in sorted(root.iterdir()):
        if path.is_dir() and path.name.lower() == name.lower():
            return path
    return None


def _stem(file: Path, ending_of: EndingOf) -> str:
    """Without the ending, and that of a compression behind it."""
    name = file.name.lower()
    return name.rpartition(ending_of(name))[0]


def _words(name: str) -> str:
    """With a dash before and after each word, since a split's must stand alone: "imagenet_train_000.tar", not
    "constrained.tar"."""
    return f"-{name.lower().replace('_', '-').replace('.', '-')}-"

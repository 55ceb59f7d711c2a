"""Find the samples and splits in a root, by the same names and rules for every medium.

A root is one of
  - a tree with one folder for each split, ``train/`` and ``val/`` or other names listed below;
  - archives, Hugging Face parquet, what its ``save_to_disk`` wrote, or WebDataset tars: one folder for each split, or
    files with the split's name among the words of their names;
  - manifests, files that list samples, if the medium has any: one for each split, with exactly its name;
  - any other folder, a file or a glob: all of it is for training;
  - a folder of tars or Parquet files in an object store, to which the same rules apply (``stores.py``).
"""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from d2v.data.file_index import folder_index, list_files
from d2v.data.sources.endings import count_endings, divide, how_to_read, in_words, may_be_sample, report_endings
from d2v.data.sources.rows import Rows, open_rows
from d2v.data.sources.source import Files, Listed, Medium, Source
from d2v.data.sources.stores import is_store, list_store
from d2v.data.sources.tars import Tars
from d2v.errors import UserError, some_of

TRAIN_NAMES = ("train", "training")
"""Names of a training split, in the order in which they are looked for."""

VAL_NAMES = (
    "dev-clean", "dev-clean-2", "dev-clean-5", "dev", "dev-other",
    "val", "validation", "valid", "eval", "test",
)  # fmt: skip
"""Names of a validation split, in the order in which they are looked for."""

ARCHIVES = (".parquet", ".arrow", ".tar")
"""Endings of files that hold many samples, in the order in which they are looked for."""

HUB = "hf://"
"""What the name of a data set at the hub of Hugging Face begins with: hf://OWNER/NAME."""


def ending(name: str) -> str:
    """The last ending of a file's name, in lower case."""
    return os.path.splitext(name)[1].lower()


def files_in(folder: Path, endings: Sequence[str], ending_of: Callable[[str], str] = ending) -> list[Path]:
    """Files directly in a folder that have one of these endings, sorted; none if there is no such folder."""
    found: list[Path] = []
    if folder.is_dir():
        for name in sorted(os.listdir(folder)):  # names, of which there may be very many, and no paths
            if ending_of(name) in endings and not name.startswith(".") and not (folder / name).is_dir():
                found.append(folder / name)
    return found


def of_one_ending(
    files: Sequence[Path], endings: Sequence[str], ending_of: Callable[[str], str] = ending
) -> list[Path]:
    """The files with the first ending that occurs, so without a README.txt beside tables."""
    for wanted in endings:
        if chosen := [file for file in files if ending_of(file.name) == wanted]:
            return chosen
    return []


def find_split(
    root: Path,
    name: str,
    endings: Sequence[str],
    ending_of: Callable[[str], str] = ending,
    by_word: bool = True,
) -> list[Path]:
    """Find one split: a folder of its name, or else files in ``root``, or else files in ``root/data``.

    Files have the very name of the split, ``train.tsv``, or else its name among the words of theirs,
    ``train-00000-of-00002.parquet``: GLUE's ``dev_ids.tsv`` beside ``dev.tsv`` is no part of a split.

    Args:
        root: a folder.
        name: of the split, or a path; upper and lower case are the same.
        endings: of its files; those of the first ending that occurs are taken.
        ending_of: finds the ending of a file, in lower case; one that knows compressed files leaves out that of the
            compression.
        by_word: whether the name may be one of several words.

    Returns:
        The folder, or the files in the order of their names; nothing if there is no such split.
    """
    itself = root / name
    if itself.is_dir() or (itself.is_file() and ending_of(name) in endings):
        return [itself]
    for there in sorted(os.listdir(root)):
        if there.lower() == name.lower() and (root / there).is_dir():
            return [root / there]
    for place in (root, root / "data"):
        exact, among_others = [], []
        for file in files_in(place, endings, ending_of):
            stem = file.name.lower().rpartition(ending_of(file.name))[0]
            if _words(stem) == _words(name):
                exact.append(file)
            elif by_word and _words(name) in _words(file.name):
                among_others.append(file)
        if exact or among_others:
            return of_one_ending(exact or among_others, endings, ending_of)
    return []


def find_splits(
    root: Path, manifests: Sequence[str], train_split: str | None, val_split: str | None
) -> tuple[list[Path], list[Path]]:
    """Find where the training and the validation split of files lie: in folders or files.

    A split that nobody named is the first of :data:`TRAIN_NAMES` (else all folders that begin with ``train-``) and the
    first of :data:`VAL_NAMES` that is there in the same form: beside a folder with the training files, an archive is no
    validation split, but what some other folder was extracted from.

    Args:
        root: a folder.
        manifests: endings of files that list samples; these have the very name of the split.
        train_split: names, comma-separated; None: found as above, or everything but the validation split: all archives
            that lie side by side, else the folder itself.
        val_split: likewise; None: found as above, or none.

    Raises:
        UserError: a split that was named is not there.
    """
    train = _named(root, manifests, train_split, "train_split") or _training(root, manifests)
    everything = _archives(root, root / "data") or [root]
    val = _named(root, manifests, val_split, "val_split")
    for name in VAL_NAMES:
        if val or val_split is not None:
            break
        found = [place for place in _find(root, manifests, name) if place not in train]
        if found and _form(found) == _form(train or everything):
            val = found
    return train or [place for place in everything if place not in val], val


def open_splits(
    root: str, medium: Medium, train_split: str | None = None, val_split: str | None = None
) -> tuple[Source, Source | None]:
    """Open the training split of a root and its validation split, if there is one.

    Args:
        root: a folder, an archive, a manifest, a file of the medium, or a glob of such files.
        medium: of the samples.
        train_split: as in :func:`find_splits`.
        val_split: likewise.

    Raises:
        UserError: there is no such root or split, or no sample in it.
    """
    if is_store(root):
        with _standing_for(root, medium) as listed:
            return open_splits(listed, medium, train_split, val_split)
    if root.startswith(HUB):
        return _of_hub(root, medium, train_split, val_split)
    path, manifests = _existing(root, medium), tuple(medium.manifests)
    whole_root, exclude = False, None
    if path is None or path.is_file():
        folder = Path.cwd() if path is None else path.parent
        train, val_places = _whole(root, path, medium), _named(folder, manifests, val_split, "val_split")
        if path is not None and ending(path.name) in manifests:
            if train_split not in (None, path.stem):
                raise UserError(f"data.train_split {train_split}: data.root {path} is one manifest; give its folder.")
            if path.stem in TRAIN_NAMES and val_split is None:
                for name in VAL_NAMES:
                    if not val_places and path.with_stem(name).is_file():
                        val_places = [path.with_stem(name)]
    else:
        folder = path
        if medium.unpacks_to is not None and (path / medium.unpacks_to).is_dir():
            folder = path / medium.unpacks_to
        train_places, val_places = find_splits(folder, manifests, train_split, val_split)
        if not train_places:
            raise UserError(f"data.root {root}: {val_places[0].name} is there, and nothing to train on.")
        whole_root = train_places == [folder] and train_split is None
        if train_places == [folder] and len(val_places) == 1 and val_places[0].parent == folder:
            exclude = val_places[0].name  # so that what is usual is not even listed
        train = _opened(train_places, medium, folder, exclude)
    val = None
    if val_places:
        val = _opened(val_places, medium, folder)
    report_endings(root, medium, (train, val))
    listed_apart = exclude is not None and val_places[0].is_dir()
    if whole_root and isinstance(train, Files) and isinstance(val, Files) and not listed_apart:
        others = train.without(val)  # the validation split lies in the folder that is for training, however deep
        if len(others):
            train = others
    return train, val


def _of_hub(root: str, medium: Medium, train_split: str | None, val_split: str | None) -> tuple[Source, Source | None]:
    """A data set that the library ``datasets`` finds by its name, and fetches if it must."""
    import datasets

    try:
        splits = datasets.load_dataset(root.removeprefix(HUB))
    except Exception as error:  # the library and the network raise many types of their own
        raise UserError(f"data.root {root}: the library `datasets` cannot load it: {error}") from error
    opened: list[Source | None] = []
    for key, name, usual in (("train_split", train_split, TRAIN_NAMES), ("val_split", val_split, VAL_NAMES)):
        names = [each for each in usual if each in splits]
        if name:
            names = [name]
        if (name and name not in splits) or (not names and not opened):
            raise UserError(f"data.{key} {name or 'null'}: {root} has the splits {', '.join(splits)}; name one of them")
        found = None
        if names:
            found = Rows(splits[names[0]], medium, f"data.root {root}")
        opened.append(found)
    train, val = opened
    assert train is not None
    return train, val


@contextmanager
def _standing_for(root: str, medium: Medium) -> Iterator[str]:
    """The folder that stands for a store; messages of inside name the store."""
    folder = str(list_store(root, medium))
    try:
        yield folder
    except UserError as error:
        raise UserError(str(error).replace(folder, root.rstrip("/"))) from error


def open_everything(root: str | Listed, medium: Medium, key: str = "data.root") -> Source:
    """Open all samples in a root, whatever split they belong to: files, else archives, else those in manifests.

    Args:
        root: as in :func:`open_splits`; or files that are listed.
        medium: of the samples.
        key: the option that gives the root, for messages.

    Raises:
        UserError: there is no such root, no sample in it, or a listed file is not there.
    """
    if isinstance(root, Listed):
        return _listed_files(root, medium)
    if is_store(root):
        with _standing_for(root, medium) as listed:
            return open_everything(listed, medium, key)
    try:
        source = _everything(root, _existing(root, medium), medium)
    except UserError as error:
        raise UserError(str(error).replace("data.root", key)) from error
    report_endings(root, medium, (source,))
    return source


def _listed_files(root: Listed, medium: Medium) -> Files:
    for name in root.cells:
        if ending(name) not in medium.suffixes:
            raise UserError(
                f"{root.where}: {name!r:.80} is no file of {medium.noun} ({some_of(medium.suffixes, 8)}); write its "
                "path, or name the column by what it holds"
            )
        if not os.path.isfile(os.path.join(root.folder, name)):
            raise UserError(f"{root.where}: there is no file {name} in {root.folder}; correct it, or give --root DIR")
    return Files(medium, root.folder, list(root.cells))


def _everything(root: str, path: Path | None, medium: Medium) -> Source:
    if path is None or path.is_file():
        return _whole(root, path, medium)
    try:
        return _from_folder(path, medium)
    except UserError:
        for suffix in (*ARCHIVES, *medium.manifests):
            if files := list_files(path, (suffix,)):
                return _opened(list(map(path.joinpath, files)), medium, path)
        raise


def _existing(root: str, medium: Medium) -> Path | None:
    """The path of a root; None if it is a glob."""
    path = Path(root).expanduser()
    if path.is_dir() or path.is_file():
        return path
    if path.exists():
        raise UserError(f"data.root {root} is neither a folder nor a file. Set it to where the {medium.noun} are.")
    if glob.has_magic(root):
        return None
    raise UserError(f"data.root {root} does not exist. Set it to the folder, file or glob that has the {medium.noun}.")


def _whole(root: str, path: Path | None, medium: Medium) -> Source:
    """All samples of a root that is a file or (``path`` is None) a glob."""
    if path is None:
        return _globbed(root, medium)
    if ending(path.name) in (*ARCHIVES, *medium.manifests):
        return _opened([path], medium, path.parent)
    if ending(path.name) in medium.suffixes:
        return Files(medium, path.parent, [path.name])
    kinds = some_of((*medium.manifests, *ARCHIVES, *medium.suffixes), 16)
    advice = how_to_read([path.name], medium)
    raise UserError(f"data.root {path} is a file of no known kind; {medium.noun} are read from {kinds}. {advice}")


def _opened(places: Sequence[Path], medium: Medium, root: Path, exclude: str | None = None) -> Source:
    """Folders, manifests or archives as one source, without a folder directly below one of the folders."""
    archives: list[Path] = []
    parts: list[Files] = []
    for place in places:
        inside = _archives(place)
        if ending(place.name) in ARCHIVES and not place.is_dir():
            archives.append(place)
        elif inside:
            archives += inside
        elif place.is_dir():
            parts.append(_from_folder(place, medium, exclude))
        else:
            parts.append(medium.manifests[ending(place.name)](place))
    if not archives:
        return Files.joined(parts)
    if parts or len(of_one_ending(archives, ARCHIVES)) < len(archives):
        names = ", ".join(place.name for place in places)
        raise UserError(
            f"data.root {root}: {names} are no files of one kind; name splits that are, or extract the archives."
        )
    if ending(archives[0].name) in (".parquet", ".arrow"):
        return open_rows(archives, medium)
    return Tars(archives, medium, root)


def _from_folder(folder: Path, medium: Medium, exclude: str | None = None) -> Files:
    arrays = folder_index(
        folder, exclude, (medium.noun, medium.suffixes), lambda names: _listed(folder, medium, names).packed()
    )
    return Files.unpacked(medium, folder, arrays)


def _listed(folder: Path, medium: Medium, listed: list[str]) -> Files:
    """The files of a medium among all files in a folder."""
    names, others = divide(listed, medium)
    if not names:
        there = ""
        if saved := sorted(state.parent.name for state in folder.glob("*/state.json")):
            there = (
                f" There are data sets that `datasets` has saved: {some_of(saved, 8)}; name one in data.train_split."
            )
        elif others:
            there = f" There are: {in_words(count_endings(others))}. {how_to_read(others, medium)}".rstrip()
        raise UserError(f"data.root: no {medium.noun} ({some_of(medium.suffixes, 12)}) in {folder} or below.{there}")
    files = Files(medium, folder, names)
    files.left_out = [os.path.join(files.folder, name) for name in others if may_be_sample(name)]
    files.endings = count_endings(names)
    return files


def _globbed(pattern: str, medium: Medium) -> Files:
    matches = filter(os.path.isfile, sorted(glob.glob(os.path.expanduser(pattern), recursive=True)))
    files, others = divide(map(os.path.abspath, matches), medium)
    if not files:
        raise UserError(f"data.root: no {medium.noun} ({some_of(medium.suffixes, 12)}) matches {pattern}.")
    folder = os.path.commonpath(list(map(os.path.dirname, files)))
    found = Files(medium, folder, [os.path.relpath(file, folder) for file in files])
    found.left_out = others
    return found


def _find(root: Path, manifests: Sequence[str], name: str) -> list[Path]:
    exact = find_split(root, name, (*ARCHIVES, *manifests), by_word=False)
    return exact or find_split(root, name, ARCHIVES)


def _named(root: Path, manifests: Sequence[str], names: str | None, key: str) -> list[Path]:
    """Several splits that a user named, separated by commas, as one; nothing for None."""
    found: list[Path] = []
    for name in filter(None, map(str.strip, (names or "").split(","))):
        places = _find(root, manifests, name)
        if not places:
            raise _not_there(root, name, key, manifests)
        for place in places:
            if place not in found:
                found.append(place)
    if names is not None and not found:
        raise UserError(f"data.{key} is {names!r}: it names no split; give a name, or null.")
    return found


def _training(root: Path, manifests: Sequence[str]) -> list[Path]:
    """An extracted split comes before the archive that it was extracted from, and a whole one before parts."""
    for name in TRAIN_NAMES:
        if found := find_split(root, name, (*ARCHIVES, *manifests), by_word=False):
            return found
    if parts := sorted(path for path in root.glob("train-*") if path.is_dir()):
        return parts
    for name in TRAIN_NAMES:
        if found := find_split(root, name, ARCHIVES):
            return found
    return []


def _archives(*folders: Path) -> list[Path]:
    """The archives, all with one ending, in the first of the folders that holds any."""
    for folder in folders:
        if found := of_one_ending(files_in(folder, ARCHIVES), ARCHIVES):
            return found
    return []


def _form(places: Sequence[Path]) -> str:
    """The ending of the archives that a split consists of; empty for a folder of samples and for a manifest."""
    kind = ending((_archives(places[0]) or places)[0].name)
    if kind in ARCHIVES:
        return kind
    return ""


def _words(name: str) -> str:
    """A name with a dash before and after each word, so that a split's name is found in "imagenet_train_000.tar", but
    not in "constrained.tar"."""
    return f"-{name.lower().replace('_', '-').replace('.', '-')}-"


def _not_there(root: Path, name: str, key: str, manifests: Sequence[str]) -> UserError:
    there = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    shown = "is nothing"
    if there:
        shown = f"are: {some_of(there, 12)}"
    default = "take train/ or everything"
    if key != "train_split":
        default = f"take the first of {', '.join(VAL_NAMES)}, if any"
    endings = " or ".join((*ARCHIVES, *manifests))
    return UserError(
        f"data.{key}: there is no folder {name} and no {endings} file with this word in its name in {root}; there "
        f"{shown}. Set data.{key} to what is there, or to null to {default}."
    )

"""Where the tables of a split lie below a root."""

from collections.abc import Sequence
from pathlib import Path

from d2v.errors import UserError
from d2v.modalities.text.labelled.tables import ENDINGS, ClassFolders, SavedDataset, Table, ending_of, open_table


def find_split(root: Path, names: Sequence[str], header: Sequence[str] | None = None) -> list[Table]:
    """Tables of the first of these splits that is there; none if none is.

    A split is a folder of its name (with tables, a folder a class, or what ``datasets`` has saved), or the files beside
    it, or in ``data``, of its very name, ``train.tsv``, else with it among the words of theirs,
    ``train-00000-of-00002.parquet``: GLUE's ``dev_ids.tsv`` beside ``dev.tsv`` is no part of a split.

    Args:
        root: A folder.
        names: Of the split; upper and lower case are the same.
        header: As in :func:`open_table`.
    """
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    for name in names:
        if (folder := folders.get(name.lower())) and (found := _in_folder(folder, header)):
            return found
        for place in (root, root / "data"):
            there = _table_files(place)
            files = [file for file in there if _dashed(_stem(file)) == _dashed(name)]
            files = files or [file for file in there if _dashed(name) in _dashed(file.name)]
            if files:
                return [open_table(file, header) for file in _of_one_kind(files)]
    return []


def everything(root: Path, header: Sequence[str] | None = None) -> list[Table]:
    """All tables in a file or folder, whatever split they belong to.

    Raises:
        UserError: There is nothing to read.
    """
    if not root.exists():
        raise UserError(f"data.root {root}: no such file or folder")
    if root.is_file():
        return [open_table(root, header)]
    found = _in_folder(root, header)
    if not found:
        found = [table for path in sorted(root.iterdir()) if path.is_dir() for table in _in_folder(path, header)]
    if not found:
        raise UserError(
            f"data.root {root}: no labelled text in it; expected files such as train.tsv and dev.tsv "
            f"({', '.join(ENDINGS)}), a data set that `datasets` has saved, or a folder a class with .txt files"
        )
    return found


def _in_folder(folder: Path, header: Sequence[str] | None) -> list[Table]:
    if (folder / "state.json").is_file():
        return [SavedDataset(folder)]
    classes = ClassFolders.found_in(folder)
    if classes is not None:
        return [classes]
    return [open_table(file, header) for file in _of_one_kind(_table_files(folder))]


def _table_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    named = ("dataset_info.json", "dataset_dict.json", "state.json")  # of `datasets`, beside its own files
    return sorted(path for path in files if ending_of(path) in ENDINGS and path.name not in named)


def _of_one_kind(files: Sequence[Path]) -> list[Path]:
    """Those of the first known ending that is there: a README.txt beside tables is none of them."""
    for ending in ENDINGS:
        if chosen := [file for file in files if ending_of(file) == ending]:
            return chosen
    return []


def _stem(file: Path) -> str:
    """In lower case, without the endings of its kind and compression."""
    return file.name.lower().rpartition(ending_of(file))[0]


def _dashed(name: str) -> str:
    """With a dash before and after each word, since a split's must stand alone."""
    return f"-{name.lower().replace('_', '-').replace('.', '-')}-"

"""Find the tables of labelled text in a folder, and which of them belong to a split."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from d2v.data.sources.splits import files_in, find_split, of_one_ending
from d2v.errors import UserError
from d2v.modalities.text.numbered_lines import BOM, decode, ending_of, open_binary, require_text
from d2v.modalities.text.records import ENDINGS, Records, Row, arrow_rows, open_records

_ABOUT_DATASETS = ("dataset_info.json", "dataset_dict.json", "state.json")
"""What ``datasets`` writes beside its files."""
_NOT_A_CLASS = ("unsup",)
"""Folders of texts without a label, as in aclImdb."""


def find_tables(root: Path, names: Sequence[str], header: Sequence[str] | None = None) -> list[Records]:
    """Tables of the first of these splits that is there; empty if none is.

    A split lies where :func:`~d2v.data.sources.splits.find_split` finds it: in files, or in a folder with tables, with
    one folder for each class, or with a data set saved by ``datasets``.

    Args:
        root: A folder.
        names: Possible names of the split, in upper or lower case.
        header: As of :func:`~d2v.modalities.text.records.open_records`.
    """
    for name in names:
        tables: list[Records] = []
        for place in find_split(root, name, ENDINGS, ending_of):
            tables += _tables_at(place, header)
        if tables:
            return tables
    return []


def all_tables(root: Path, header: Sequence[str] | None = None) -> list[Records]:
    """All tables in a file or folder, whatever split they belong to.

    Raises:
        UserError: There is nothing to read.
    """
    if not root.exists():
        raise UserError(f"data.root {root}: no such file or folder")
    found = _tables_at(root, header)
    if not found:
        for path in sorted(root.iterdir()):
            if path.is_dir():
                found += _tables_at(path, header)
    if not found:
        raise UserError(
            f"data.root {root}: no labelled text in it; expected files such as train.tsv and dev.tsv "
            f"({', '.join(ENDINGS)}), a data set that `datasets` has saved, or a folder a class with .txt files"
        )
    return found


def _tables_at(place: Path, header: Sequence[str] | None) -> list[Records]:
    """The table of a file, or the tables of a folder, without a README.txt that lies beside them."""
    if place.is_file():
        return [open_records(place, header)]
    if (place / "state.json").is_file():
        return [SavedDataset(place)]
    classes: list[Path] = []
    for path in sorted(place.iterdir()):
        if path.name not in _NOT_A_CLASS and any(path.glob("*.txt")):
            classes.append(path)
    if len(classes) >= 2:
        return [ClassFolders(place, classes)]
    files = [file for file in files_in(place, ENDINGS, ending_of) if file.name not in _ABOUT_DATASETS]
    return [open_records(file, header) for file in of_one_ending(files, ENDINGS, ending_of)]


class ClassFolders(Records):
    """One folder for each class, with one file for each text, as in aclImdb.

    Args:
        path: The folder with the classes' folders.
        classes: The classes' folders, which are named like the classes.
    """

    def __init__(self, path: Path, classes: Sequence[Path]) -> None:
        super().__init__(path, ("text", "label"))
        self._classes = classes

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        for folder in self._classes:
            for file in sorted(folder.glob("*.txt")):
                require_text(file, "data.root")
                with open_binary(file, "data.root") as (content, _):
                    text, invalid = decode(content.read().removeprefix(BOM))
                self.invalid += invalid
                cells = {"text": text.replace("\r\n", "\n").removesuffix("\n"), "label": folder.name}
                yield f"{folder.name}/{file.name}", list(map(cells.__getitem__, columns))


class SavedDataset(Records):
    """One split saved with the ``save_to_disk`` of ``datasets``.

    Args:
        path: Folder of the split.
    """

    def __init__(self, path: Path) -> None:
        from datasets import load_from_disk

        try:
            self._dataset = load_from_disk(str(path))
        except Exception as error:  # the library raises many types of its own
            raise UserError(f"data.root {path}: no data set that `datasets` has saved, or a damaged one") from error
        super().__init__(path, self._dataset.column_names)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        first = 1
        for batch in self._dataset.with_format("arrow").iter(10_000):
            yield from arrow_rows(self.path.name, first, batch, columns)
            first += len(batch)

    def class_names(self, column: str) -> tuple[str, ...]:
        return tuple(getattr(self._dataset.features[column], "names", ()))

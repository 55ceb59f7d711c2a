"""The labels of files in the table of ``data.labels``."""

from pathlib import Path

from d2v.data.sources.file_tables import FileTable
from d2v.data.sources.source import COLUMNS
from d2v.errors import UserError


def read_labels(path: Path, endings: tuple[str, ...]) -> tuple[FileTable, list[tuple[str, ...]]]:
    """A table of files and the labels of each row: those in its column of labels, or in all columns but the first.

    Args:
        path: of the table.
        endings: of the files that it names, in lower case.

    Raises:
        UserError: it cannot be read, or a row has no label or a stray tab.
    """
    table = FileTable(path, "data.labels", endings)
    column = table.column(None, COLUMNS["label"], "data.labels")
    most = 2 if column is None else len(table.columns)
    labels: list[tuple[str, ...]] = []
    for row, (_, cells) in enumerate(table.rows):
        if table.cut_by == "\t" and any(cells[most:]):
            raise UserError(
                f"{table.line(row)}: a tab too many, {cells!r}; there is one between two columns and none in a label, "
                "and several labels of one file are separated by commas."
            )
        given = cells[1:]
        if column is not None:
            given = [table.cell(row, column)]
        labels.append(tuple(filter(None, map(str.strip, ",".join(given).split(",")))))
        if not cells[0] or not labels[-1]:
            raise UserError(f"{table.line(row)}: expected a file and its labels, found {cells!r}.")
    return table, labels

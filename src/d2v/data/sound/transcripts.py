"""Transcripts of clips: in a table, in files beside the clips, or beside a manifest; and what is kept of their text."""

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, cast

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from d2v.data.alphabet import in_case
from d2v.data.sound.audio_reader import NOT_READ, SUFFIXES
from d2v.data.sources.file_tables import FileTable
from d2v.data.sources.source import COLUMNS, Files
from d2v.errors import UserError, some_of

Case = Literal["keep", "upper", "lower", "upper_tr", "lower_tr"]
Punctuation = Literal["keep", "remove"]

FORMATS = (
    "a table (data.transcripts FILE: TSV, CSV or JSON lines with a file and its text a row), metadata.csv or "
    "metadata.jsonl in their folder, *.trans.txt or NAME.txt, .lab or .phn beside the clips, .wrd, .ltr or .phn beside "
    f"a manifest, or a column of a parquet file ({', '.join(COLUMNS['text'])})"
)
"""Where transcripts are read from, for messages."""

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.tsv")
_BESIDE = (".txt", ".lab", ".phn")
_OF_MANIFEST = (".wrd", ".ltr", ".phn")
# Within a word these are no punctuation: it's, l·l in Catalan, quotes of Hebrew abbreviations.
_WITHIN_WORDS = "'\u2019\u00b7\u05f3\u05f4"
_WITHIN = re.compile(rf"(?<=\w)[{_WITHIN_WORDS}](?=\w)")
# TIMIT and HTK write two times before each phone, and before a sentence.
_TIMED = re.compile(r"\d+\s+\d+\s+(\S.*)")


def read_transcripts(
    path: Path, names: Sequence[str], file_column: str | None = None, text_column: str | None = None
) -> list[str]:
    """Transcripts of files from a table; empty where there is none.

    Args:
        path: as of :class:`FileTable`.
        names: paths of the files.
        file_column: heading or number of the column of files; None: found by its heading or content.
        text_column: likewise, of the transcripts.

    Raises:
        UserError: it cannot be read, nothing in it is one of these files, or it does not tell which column is the text.
    """
    headings = list(COLUMNS["text"])
    if text_column is not None and not text_column.isdecimal():
        headings.append(text_column.strip().lower())
    table = FileTable(path, "data.transcripts", (*SUFFIXES, *NOT_READ), headings, file_column)
    files, rows = table.files(names)
    matched = [row for row in rows if row >= 0]
    if not matched:
        raise UserError(
            f"data.transcripts {path}: no row names one of the {len(names):,} clips. Its first row has "
            f"{table.cell(0, files)!r} in column {table.columns[files]}, and the first clip is {names[0]}. "
            "data.file_column chooses another column, data.root the folder of the clips."
        )
    column = table.column(text_column, COLUMNS["text"], "data.text_column")
    if column is None:
        column = _only_text(table, files, matched)
    table.require_whole(column)
    texts = [""] * len(rows)
    for index, row in enumerate(rows):
        if row >= 0:
            texts[index] = table.cell(row, column)
    said = f"data: {path}: transcripts of {len(matched):,} of {len(names):,} clips, in column {table.columns[column]}"
    unused = sorted(set(range(len(table.rows))) - set(matched))
    if unused:
        said += f"; {len(unused):,} rows name no clip (first: {table.cell(unused[0], files)})"
    if len(matched) < len(names):
        said += f"; first clip without a row: {names[rows.index(-1)]}"
    rank_zero_info(said)
    return texts


def transcripts_beside(files: Files) -> list[str]:
    """Transcripts beside the clips, empty where there is none.

    They lie in ``*.trans.txt`` in the folder of each clip (lines of STEM TEXT), or in ``STEM.txt``, ``.lab`` or
    ``.phn``, or else in a ``metadata.csv`` (or ``.jsonl``) in a folder above them that belongs to the data.
    """
    names = [files.name(index) for index in range(len(files))]
    folder, of_folder = "", _Folder("")
    texts = []
    for name in names:
        parent, base = os.path.split(name)
        if parent != folder:  # files are sorted, so all files of a folder follow each other
            folder, of_folder = parent, _Folder(parent)
        texts.append(of_folder.text(base.rpartition(".")[0]))
    for path in _metadata(names, os.path.dirname(files.folder)):
        places = []
        for index, name in enumerate(names):
            if not texts[index] and name.startswith(f"{path.parent}{os.sep}"):
                places.append(index)
        if not places:
            continue
        try:
            found = read_transcripts(path, [names[index] for index in places])
        except UserError as error:  # it may be about something else
            rank_zero_warn(f"{path} holds no transcripts that are read by themselves: {error}")
            continue
        for index, text in zip(places, found, strict=True):
            texts[index] = text
    return texts


def transcripts_of_manifest(manifest: Path, count: int) -> list[str] | None:
    """Transcripts in the files beside a manifest of fairseq, a line a clip; None: there are none.

    Raises:
        UserError: there is not one line for each clip.
    """
    for ending in _OF_MANIFEST:
        path = manifest.with_suffix(ending)
        if not path.is_file():
            continue
        texts = list(map(str.strip, _read_text(str(path)).splitlines()))
        if len(texts) != count:
            raise UserError(
                f"{path} has {len(texts)} lines for {count} files in {manifest.name}; they must correspond."
            )
        if ending == ".ltr" and all(len(symbol) == 1 for symbol in set(" ".join(texts).split())):
            return [text.replace(" ", "").replace("|", " ").strip() for text in texts]  # H E L L O | W O R L D |
        return texts
    return None


def clean(text: str, case: Case, punctuation: Punctuation) -> str:
    """A transcript as it is to be learned, in composed characters.

    Args:
        text: as it was given.
        case: ``upper_tr`` and ``lower_tr`` know the dotless i of Turkish.
        punctuation: ``remove``: without signs and symbols, also dashes; letters with accents, marks on letters, digits,
            and apostrophes within a word stay.
    """
    text = unicodedata.normalize("NFC", text)
    if case != "keep":
        name, _, turkish = case.partition("_")
        text = in_case(text, cast(Literal["upper", "lower"], name), bool(turkish))
    if punctuation == "remove":
        within = {match.start() for match in _WITHIN.finditer(text)}
        kept = []
        for place, character in enumerate(text):
            kind = unicodedata.category(character)
            if place in within:
                kept.append("'" if character == "\u2019" else character)
            elif kind[0] in "PS":
                kept.append(" ")
            elif kind != "Cf" or character in "\u200c\u200d":  # joiners belong to the spelling of Persian and Hindi
                kept.append(character)
        text = "".join(kept)
    return " ".join(text.split())


class _Folder:
    """Transcripts in one folder; names are compared in composed characters."""

    def __init__(self, folder: str) -> None:
        self._texts: dict[str, str] = {}
        self._files: dict[str, dict[str, str]] = {ending: {} for ending in _BESIDE}
        if not os.path.isdir(folder):
            return
        for entry in sorted(os.listdir(folder)):
            stem, ending = os.path.splitext(entry)
            path = os.path.join(folder, entry)
            if entry.endswith(".trans.txt") and not entry.startswith("."):
                for line in _read_text(path).splitlines():
                    clip, _, text = line.strip().partition(" ")
                    self._texts[unicodedata.normalize("NFC", clip)] = text.strip()
            elif ending.lower() in _BESIDE:
                self._files[ending.lower()][unicodedata.normalize("NFC", stem)] = path

    def text(self, stem: str) -> str:
        """The transcript of a clip; empty if there is none."""
        stem = unicodedata.normalize("NFC", stem)
        if stem in self._texts:
            return self._texts[stem]
        for files in self._files.values():
            if stem in files:
                lines = _read_text(files[stem]).split("\n")
                timed = [_TIMED.fullmatch(line.strip()) for line in lines if line.strip()]
                if timed and all(timed):
                    lines = [match[1] for match in timed if match]
                return " ".join(" ".join(lines).split())
        return ""


def _metadata(names: Sequence[str], top: str) -> Iterator[Path]:
    """Files called metadata in the folders of clips and above them, not above ``top``; those nearest first."""
    folders = set(map(os.path.dirname, names))
    for folder in list(folders):
        while len(folder) > len(top):
            folder = os.path.dirname(folder)
            folders.add(folder)
    for folder in sorted(folders, key=len, reverse=True):
        for name in _METADATA:
            path = Path(folder, name)
            if path.is_file():
                yield path


def _only_text(table: FileTable, files: int, rows: Sequence[int]) -> int:
    """The only column beside that of files with more than numbers."""
    found = []
    for column in range(len(table.columns)):
        cells = "".join(table.cell(row, column) for row in rows[:100])
        if column != files and any(map(str.isalpha, cells)):
            found.append(column)
    if len(found) == 1:
        return found[0]
    raise UserError(
        f"data.transcripts {table.path}: which column is the text? Name it in data.text_column, by its heading or its "
        f"number from 1: {some_of(table.columns, 12)}. Known headings are {', '.join(COLUMNS['text'])}."
    )


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from error

"""Text to embed: files, lines, or rows of a table."""

import glob
import os
import sys
from array import array
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from d2v.data.encoder_inputs import Inputs
from d2v.data.file_index import list_files
from d2v.data.sources.source import Listed
from d2v.errors import UserError
from d2v.modalities.text.front_end import TextFrontEnd
from d2v.modalities.text.labelled.data import TEXT_COLUMNS
from d2v.modalities.text.labelled.examples import find_column
from d2v.modalities.text.numbered_lines import BOM, decode, ending_of, open_binary, require_text
from d2v.modalities.text.records import Reading, open_records, warn_of_invalid
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.text.tokenizer_files import TOKENIZER
from d2v.model.encoder import Encoder
from d2v.progress_bar import Progress

LABELLED = {"class_path": "d2v.modalities.text.labelled.data.LabelledTextDataModule", "init_args": {}}
"""How labelled samples are read where no config says otherwise."""
LONGEST = 512
"""Tokens of a part where the encoder has no limit: as many as in the published training."""

_ID = "id"
_AT_ONCE = 1000  # texts that are tokenised together, on all cores


def open_inputs(root: str | Listed, encoder: Encoder) -> "TextInputs":
    """Read all text, and tokenise it with the encoder's own tokenizer.

    Args:
        root: a folder or a glob (each .txt file is a text, named by its path); a .txt file or ``-`` for stdin (each
            line is a text, named by its number from 1; blank lines are left out); or a table (.tsv, .csv, .jsonl,
            .parquet), whose rows are named by their column ``id``, or by their number from 0; or texts that are
            listed, each of which is its own name.
        encoder: an encoder for text.

    Raises:
        UserError: there is no text, a table has no column of texts, or the encoder brings no tokenizer.
    """
    front = encoder.front
    assert isinstance(front, TextFrontEnd)
    if TOKENIZER not in encoder.assets:
        raise UserError(
            "--checkpoint: no tokenizer goes with this encoder, so its token ids have no meaning; an official model is "
            "imported with `d2v import SOURCE --tokenizer PATH`, and a run of d2v on text always has one"
        )
    tokenizer = TextTokenizer.from_json(encoder.assets[TOKENIZER])
    if len(tokenizer) > front.vocab_size:
        raise UserError(
            f"--checkpoint: its tokenizer has {len(tokenizer):,} ids, and the encoder embeds {front.vocab_size:,}; "
            "import it again with the one that it was trained with"
        )
    if isinstance(root, Listed):
        texts: Iterator[tuple[str, str]] = zip(root.cells, root.cells, strict=True)
    else:
        texts = read_texts(root)
    inputs = TextInputs(texts, tokenizer, front.max_positions or LONGEST)
    if not len(inputs) and not inputs.broken:
        raise UserError(f"--input {root}: there is no text in it")
    return inputs


class TextInputs(Inputs):
    """Token ids ``<s> text </s>``; a later part of a long text begins with ``<s>`` as well.

    Args:
        texts: names and contents; a text without a token counts as broken.
        tokenizer: the encoder's tokenizer.
        longest: tokens that the encoder takes at once.
    """

    unit = "text"
    part = "token"

    def __init__(self, texts: Iterator[tuple[str, str]], tokenizer: TextTokenizer, longest: int) -> None:
        super().__init__([], {})
        self.longest = longest
        self._bos = tokenizer.bos_id
        ids = array("i")  # int32, all texts in one; unlike NumPy's, this array can grow
        ends = [0]
        rows = iter(Progress(texts, desc="tokenising", unit="text", unit_scale=True, leave=False))
        while some := list(islice(rows, _AT_ONCE)):
            names, contents = zip(*some, strict=True)
            for name, tokens in zip(names, tokenizer.encode_batch(contents), strict=True):
                if not len(tokens):
                    self.broken[name] = "it is empty"
                    continue
                self.names.append(name)
                ids.append(tokenizer.bos_id)
                ids.frombytes(tokens.tobytes())
                ids.append(tokenizer.eos_id)
                ends.append(ends[-1] + len(tokens) + 2)
        self._ids = np.asarray(ids)
        self._ends = np.array(ends, dtype=np.int64)

    def fingerprint(self) -> str:
        digest = blake2b(self._ids.data, digest_size=12)
        digest.update(self._ends.data)
        return digest.hexdigest()

    def num_samples(self, index: int) -> int:
        return int(self._ends[index + 1] - self._ends[index])

    def read(self, index: int, start: int, stop: int | None) -> Int64[Tensor, "n"]:
        begin, end = self._ends[index : index + 2]
        ids = torch.from_numpy(self._ids[begin:end][start:stop].astype(np.int64))
        ids[0] = self._bos  # in the middle of a text it takes the place of a token of which no output is kept
        return ids


def read_texts(root: str) -> Iterator[tuple[str, str]]:
    """The name and content of each text that :func:`open_inputs` finds."""
    path = Path(root).expanduser()
    if root == "-":
        return _lines()
    if path.is_dir():
        return _files(path, list_files(path, (".txt",)), f"no .txt file in {root} or below")
    if path.is_file():
        return _rows(path)
    if not glob.has_magic(root):
        raise UserError(f"--input {root} does not exist; give a folder, a file, a glob, or - for stdin")
    found = sorted(os.path.abspath(name) for name in glob.glob(str(path), recursive=True) if name.endswith(".txt"))
    folder = os.path.commonpath(list(map(os.path.dirname, found))) if found else ""
    return _files(Path(folder), [os.path.relpath(name, folder) for name in found], f"no .txt file matches {root}")


def _files(folder: Path, names: list[str], nothing: str) -> Iterator[tuple[str, str]]:
    if not names:
        raise UserError(f"--input: {nothing}; a table (.csv, .jsonl, ...) is given by its own name")
    invalid = 0
    for name in names:
        require_text(folder / name, "--input")
        with open_binary(folder / name, "--input") as (file, _):
            content = file.read()
        text, places = decode(content.removeprefix(BOM))
        invalid += places > 0
        yield name.encode(errors="backslashreplace").decode(), text.strip()
    _warn_of_utf8(invalid, "files")


def _lines() -> Iterator[tuple[str, str]]:
    invalid = 0
    for number, line in enumerate(sys.stdin.buffer, 1):
        text, places = decode(line.removeprefix(BOM))
        invalid += places > 0
        if text := text.strip():
            yield str(number), text
    _warn_of_utf8(invalid, "lines of stdin")


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    table = open_records(path, reading=Reading("--input"))
    text, name = find_column(table, TEXT_COLUMNS), find_column(table, (_ID,))
    if text is None:
        raise UserError(
            f"--input {path}: none of its columns ({', '.join(table.columns)}) is called "
            f"{', '.join(TEXT_COLUMNS[:-1])} or {TEXT_COLUMNS[-1]}; rename the one with the text"
        )
    columns = [text]
    if name is not None:
        columns.append(name)
    for row, (place, cells) in enumerate(table.rows(columns)):
        named = str(row)
        if name is not None and cells[1]:
            named = cells[1]
        elif ending_of(path) == ".txt":
            named = place.rpartition(":")[2]
        yield named, (cells[0] or "").strip()
    warn_of_invalid(table)


def _warn_of_utf8(invalid: int, what: str) -> None:
    if invalid:
        Progress.write(
            f"--input: {invalid:,} {what} are not valid UTF-8; the invalid bytes became U+FFFD", file=sys.stderr
        )

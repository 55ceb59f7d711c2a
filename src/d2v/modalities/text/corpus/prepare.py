"""``d2v prepare text``: from raw text to a tokenizer and token shards."""

import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from d2v.data.cores import available_cores
from d2v.errors import UserError
from d2v.modalities.text.corpus.files import Corpus
from d2v.modalities.text.corpus.jobs import Job, run_jobs
from d2v.modalities.text.corpus.shard_writer import PART, write_index, write_json, write_text
from d2v.modalities.text.corpus.shards import FORMAT, SPLITS, is_prepared, read_index
from d2v.modalities.text.corpus.tokenizer_sample import sample
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.text.tokenizer_files import TOKENIZER

log = logging.getLogger(__name__)

_UNFINISHED = "unfinished"
_SETTINGS = "settings.json"
_LOCK = ".lock"


@dataclass(frozen=True)
class PreparedText:
    """What lies in a prepared folder, and how fast it was made."""

    folder: Path
    created: bool
    """False: it was there already."""
    files: int
    documents: dict[str, int]
    """Of each split."""
    tokens: dict[str, int]
    """Of each split, an end of line among them after each line."""
    types: int
    """Ids of the tokenizer, special ones among them."""
    bytes: int
    """Of the text as UTF-8, without the ends of its lines."""
    invalid: int
    """Sequences of bytes that were no UTF-8 and became U+FFFD."""
    line_files: int
    """Files of plain text without blank lines, in which each line was taken for a document."""
    training_seconds: float = 0.0
    encoding_seconds: float = 0.0
    encoded: float = 0.0
    """Fraction of the corpus that this call has encoded; the rest was there already."""


def prepare_corpus(
    inputs: Sequence[str],
    output: str | Path,
    *,
    tokenizer: str | None = None,
    vocab_size: int = 50260,
    val_fraction: float = 0.01,
    num_workers: int | None = None,
    text_column: str = "text",
) -> PreparedText:
    """Train a byte-level BPE, or take one, and write token shards for :class:`Shards` (`shards.py`).

    Several processes may call it at once: one works and the others wait. After a kill, the same call goes on where it
    was; the shards do not depend on that, nor on the number of workers.

    Args:
        inputs: files, folders and globs; see :meth:`~d2v.modalities.text.corpus.files.Corpus.open`.
        output: folder to write.
        tokenizer: what :meth:`TextTokenizer.open` reads; None: one is trained on at most 128 MiB of the text.
        vocab_size: types of the one that is trained, special tokens not among them.
        val_fraction: every ``round(1 / val_fraction)``-th document is for validation; 0: none.
        num_workers: processes; None: one a core.
        text_column: of tables, or key of JSON lines, that holds the text.

    Raises:
        UserError: there is no text, an input is not readable, or the folder holds something else.
    """
    output = Path(output).expanduser()
    if not 0 <= val_fraction <= 0.5:
        raise UserError(f"val_fraction {val_fraction}: give 0 (no validation), or up to 0.5; 0.01 is one in a hundred")
    corpus = Corpus.open(inputs, text_column, exclude=output)
    given = None if tokenizer is None else TextTokenizer.open(tokenizer)
    settings = {
        "format": FORMAT,
        "corpus": corpus.fingerprint,
        "vocab_size": vocab_size if given is None else None,
        "tokenizer": None if given is None else given.fingerprint,
        "val_fraction": val_fraction,
        "text_column": text_column,
    }
    if is_prepared(output):
        return _finished(output, settings)
    _check_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    with _locked(output):
        if is_prepared(output):  # by the process that had the lock
            return _finished(output, settings)
        return _Preparation(corpus, output, settings, given, num_workers or available_cores()).run()


class _Preparation:
    """All that happens under the lock."""

    def __init__(
        self, corpus: Corpus, output: Path, settings: dict[str, Any], given: TextTokenizer | None, num_workers: int
    ) -> None:
        self._corpus = corpus
        self._output = output
        self._settings = settings
        self._given = given
        self._num_workers = num_workers
        self._records = output / _UNFINISHED

    def run(self) -> PreparedText:
        self._begin()
        start = time.perf_counter()
        tokenizer = self._tokenizer()
        trained = time.perf_counter()
        records, encoded = self._encode(tokenizer)
        seconds = time.perf_counter() - trained
        splits = {split: [entry for record in records if (entry := record[split])] for split in SPLITS}
        if not any(splits.values()):
            self._clear()
            raise UserError(f"input {self._corpus.files[0].path}: there is no text, only blank lines")
        counts = {
            "files": len(self._corpus.files),
            "bytes": sum(record["bytes"] for record in records),
            "invalid": sum(record["invalid"] for record in records),
            "line_files": len(self._corpus.line_files),
        }
        write_index(self._output, tokenizer, splits, {"settings": self._settings, "corpus": counts})
        shutil.rmtree(self._records)
        return _summary(self._output, read_index(self._output), len(tokenizer), True, trained - start, seconds, encoded)

    def _begin(self) -> None:
        """Settings of what is unfinished must be ours; half-written files go."""
        path = self._records / _SETTINGS
        if path.is_file():
            _check_settings(self._output, json.loads(path.read_text(encoding="utf-8")), self._settings)
        else:
            self._records.mkdir(exist_ok=True)
            write_json(path, self._settings)
        for part in (*self._output.glob(f"*{PART}"), *self._records.glob(f"*{PART}")):
            part.unlink()

    def _tokenizer(self) -> TextTokenizer:
        path = self._output / TOKENIZER
        if self._given is not None:
            write_text(path, self._given.to_json())
        elif not path.is_file():
            # Where there is no terminal, the library still prints the line breaks of its bars.
            progress = sys.stderr.isatty()
            trained = TextTokenizer.train(sample(self._corpus), self._settings["vocab_size"], progress)
            write_text(path, trained.to_json())
        return TextTokenizer.open(path)

    def _encode(self, tokenizer: TextTokenizer) -> tuple[list[dict[str, Any]], float]:
        """Records of all jobs, in the order of the text; which fraction of the bytes was encoded now."""
        corpus, val_fraction = self._corpus, self._settings["val_fraction"]
        every = round(1 / val_fraction) if val_fraction else 0
        job = Job(self._output, self._records, tokenizer.fingerprint, corpus.column, every)
        jobs = corpus.jobs()
        records = {number: record for number in range(len(jobs)) if (record := job.record(number)) is not None}
        pending = {number: segments for number, segments in enumerate(jobs) if number not in records}
        left = sum(segment.size for segments in pending.values() for segment in segments)
        with tqdm(
            total=corpus.size, initial=corpus.size - left, unit="B", unit_scale=True, desc="encode", disable=None
        ) as bar:
            records |= dict(run_jobs(job, pending, self._num_workers, bar.update))
        return [records[number] for number in range(len(jobs))], left / corpus.size

    def _clear(self) -> None:
        shutil.rmtree(self._records)
        (self._output / TOKENIZER).unlink()


def _finished(output: Path, settings: dict[str, Any]) -> PreparedText:
    index = read_index(output)
    if "settings" not in index:
        raise UserError(f"{output}: its shards are not by `d2v prepare text`; give another folder")
    _check_settings(output, index["settings"], settings)
    return _summary(output, index, len(TextTokenizer.open(output / TOKENIZER)), False)


def _summary(
    output: Path,
    index: dict[str, Any],
    types: int,
    created: bool,
    training_seconds: float = 0.0,
    encoding_seconds: float = 0.0,
    encoded: float = 0.0,
) -> PreparedText:
    splits = index["splits"]
    return PreparedText(
        folder=output,
        created=created,
        documents={split: sum(entry["documents"] for entry in splits[split]) for split in SPLITS},
        tokens={split: sum(entry["tokens"] for entry in splits[split]) for split in SPLITS},
        types=types,
        training_seconds=training_seconds,
        encoding_seconds=encoding_seconds,
        encoded=encoded,
        **index["corpus"],
    )


def _check_settings(output: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise a UserError that names what differs from what the folder was begun with."""
    if before == now:
        return
    differs = [key for key in now if before.get(key) != now[key]]
    named = [f"{key} was {before.get(key)} and is {now[key]}" for key in differs if key not in ("corpus", "format")]
    if "corpus" in differs:
        named.append("files of the input were added, removed or changed")
    if "format" in differs:
        named.append("it is by another version of d2v")
    raise UserError(f"{output}: was prepared otherwise ({'; '.join(named)}); give another folder, or delete this one")


def _check_folder(output: Path) -> None:
    """Something else is not written into."""
    if not output.is_dir() or (output / _UNFINISHED / _SETTINGS).is_file():
        return
    other = [path.name for path in output.iterdir() if path.name not in (_LOCK, _UNFINISHED)]
    if other:
        raise UserError(f"{output}: holds something else, such as {sorted(other)[0]}; give another folder")


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """A lock that ends with the process that holds it, however that ends."""
    lock = FileLock(output / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s: another process prepares it; waiting for it", output)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()

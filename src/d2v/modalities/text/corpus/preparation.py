"""From raw text to a tokenizer and token shards: ``d2v prepare text``, and what `d2v fit` does with raw text."""

import hashlib
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

import numpy as np
from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from tqdm import tqdm

from d2v.data.cores import available_cores
from d2v.data.file_index import fingerprint
from d2v.data.user_cache import bound_size, cached_arrays, entry_path, hold
from d2v.errors import UserError
from d2v.modalities.text.corpus.corpus_files import NAME_IT, Corpus
from d2v.modalities.text.corpus.jobs import Job, run_jobs
from d2v.modalities.text.corpus.shard_writer import PART, write_index, write_json
from d2v.modalities.text.corpus.shards import FORMAT, SPLITS, Shards, is_prepared, read_index
from d2v.modalities.text.corpus.tokenizer_sample import sample
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.text.tokenizer_files import TOKENIZER
from d2v.whole_files import write_text

log = logging.getLogger(__name__)

_UNFINISHED = "unfinished"
_SETTINGS = "settings.json"
_LOCK = ".lock"


@dataclass(frozen=True)
class PreparedText:
    """What is in a prepared folder, and how long it took to make."""

    folder: Path
    created: bool
    """False: it was there already."""
    files: int
    documents: dict[str, int]
    """Documents of each split."""
    tokens: dict[str, int]
    """Tokens of each split, including an end of line after each line."""
    types: int
    """Ids of the tokenizer, including special ones."""
    bytes: int
    """Bytes of the text as UTF-8, without line ends."""
    invalid: int
    """Sequences of bytes that were no valid UTF-8 and became U+FFFD."""
    line_files: int
    """Files of plain text without blank lines, in which each line was taken as a document."""
    training_seconds: float = 0.0
    encoding_seconds: float = 0.0
    encoded: float = 0.0
    """Fraction of the corpus that this call encoded; the rest was there already."""

    @classmethod
    def of(cls, folder: Path, index: dict[str, Any], types: int, created: bool, *speed: float) -> "PreparedText":
        """Made from the index of the folder."""
        documents, tokens = {}, {}
        for split in SPLITS:
            documents[split] = sum(entry["documents"] for entry in index["splits"][split])
            tokens[split] = sum(entry["tokens"] for entry in index["splits"][split])
        counts = index["corpus"]
        return cls(
            folder, created, counts["files"], documents, tokens, types, counts["bytes"], counts["invalid"],
            counts["line_files"], *speed,
        )  # fmt: skip


def prepare_corpus(
    inputs: Sequence[str],
    output: str | Path,
    *,
    tokenizer: str | None = None,
    vocab_size: int = 50260,
    val_fraction: float = 0.01,
    num_workers: int | None = None,
    text_column: str = "text",
    verify: bool = False,
) -> PreparedText:
    """Train a byte-level BPE, or use a given tokenizer, and write token shards; this is ``d2v prepare text``.

    Several processes may call it at once: one works and the others wait. If it was killed, the same call goes on from
    there; the shards depend neither on that nor on the number of workers.

    Args:
        inputs: files, folders and globs; see :meth:`~d2v.modalities.text.corpus.corpus_files.Corpus.open`.
        output: folder to write, for :class:`~d2v.modalities.text.corpus.shards.Shards`.
        tokenizer: anything that :meth:`TextTokenizer.open` reads; None: one is trained on at most 128 MiB of the text.
        vocab_size: types of the trained tokenizer, without special tokens.
        val_fraction: every ``round(1 / val_fraction)``-th document is for validation; 0: none.
        num_workers: number of processes; None: one per core.
        text_column: column of tables, or key in JSON lines, that holds the text.
        verify: whether to read the shards again and compare their checksums.

    Raises:
        UserError: there is no text, an input is not readable, or the folder holds something else.
    """
    output = Path(output).expanduser()
    if not 0 <= val_fraction <= 0.5:
        raise UserError(f"val_fraction {val_fraction}: give 0 (no validation), or up to 0.5; 0.01 is one in a hundred")
    corpus = Corpus.open(inputs, text_column, exclude=output)
    given = None if tokenizer is None else TextTokenizer.open(tokenizer)
    prepared = _prepare(corpus, output, given, vocab_size, val_fraction, num_workers)
    for split in SPLITS:
        shards = Shards.open(output, split)
        if verify and shards is not None:
            shards.verify()
    return prepared


def open_shards(
    root: str, tokenizer: str | None, vocab_size: int, folder: str | None, val_fraction: float
) -> dict[str, Shards]:
    """Open shards, made from raw text if necessary: the split "train", and perhaps "val".

    Args:
        root: folder of shards, which are taken as they are; or raw text: a file, folder or glob.
        tokenizer: the tokenizer for raw text; None: one is trained. Existing shards must have been made with it.
        vocab_size: types of the tokenizer that is trained.
        folder: folder for the shards of raw text; None: one in the user's cache folder, whose name depends on the text
            and on these arguments.
        val_fraction: share of the documents of raw text that is held out.

    Raises:
        UserError: there is no text, the shards are damaged or unfinished, or another tokenizer made them.
    """
    given = None if tokenizer is None else TextTokenizer.open(tokenizer)
    place = Path(root).expanduser()
    if is_prepared(place) or any(place.glob("train-*.bin")):
        if folder is not None:
            raise UserError(
                f"data.shards is {folder}, and data.root {root} holds shards already. Leave data.shards out, or name "
                "raw text in data.root."
            )
        read_index(place)  # raises an error if the folder is unfinished
    else:
        place = _prepare_root(root, given, vocab_size, folder, val_fraction)
    splits: dict[str, Shards] = {}
    for name in SPLITS:
        shards = Shards.open(place, name)
        if shards is not None:
            splits[name] = shards
    if "train" not in splits:
        raise UserError(f"data.root {root}: no document is left to train on; lower data.val_fraction.")
    if given is not None and given.fingerprint != splits["train"].tokenizer.fingerprint:
        raise UserError(
            f"data.tokenizer {tokenizer} is not the one that made the shards in {place}. Leave it out to use theirs, "
            "or prepare the text again with this one."
        )
    return splits


def verify_once(shards: Shards) -> None:
    """Compare the checksums of a split, unless the same files were found intact before.

    Raises:
        UserError: a file was changed since it was written.
    """

    def verify() -> dict[str, np.ndarray]:
        shards.verify()
        return {"tokens": np.array(shards.num_tokens)}

    files = sorted(shards.folder.glob(f"{shards.split}-*"))
    cached_arrays("text-checked", f"{shards.fingerprint}-{fingerprint(files)}", verify, made_of=shards.folder)


def _prepare_root(
    root: str, given: TextTokenizer | None, vocab_size: int, folder: str | None, val_fraction: float
) -> Path:
    """Make shards of raw text that `d2v fit` was given, or find those that were made before."""
    output = None if folder is None else Path(folder).expanduser()
    how = f"prepare it with `d2v prepare text {NAME_IT}`, and give the folder that this writes as data.root"
    try:
        corpus = Corpus.open([root], exclude=output)
        if output is None:
            made_by = vocab_size if given is None else given.fingerprint
            key = f"{corpus.fingerprint} {made_by} {val_fraction}"
            output = entry_path("text-shards", hashlib.blake2b(key.encode(), digest_size=12).hexdigest(), root)
            hold(output)
        prepared = _prepare(corpus, output, given, vocab_size, val_fraction)
        if folder is None and prepared.created:
            bound_size(output)
    except UserError as error:  # there is no key of data for the column
        text = str(error).replace(NAME_IT, how)
        if text.startswith("input "):
            text = f"data.root: {text}"
        raise UserError(text) from error
    except OSError as error:
        raise UserError(
            f"data.root {root} is raw text, and its token shards cannot be written to {output} ({error.strerror}); "
            "name another folder: --data.shards FOLDER, or free some space there"
        ) from error
    rank_zero_info(f"data: {root} is raw text; its token shards are in {output}")
    if prepared.invalid:
        rank_zero_warn(f"data: {root}: {prepared.invalid:,} places are not valid UTF-8 and became U+FFFD")
    return output


def _prepare(
    corpus: Corpus,
    output: Path,
    given: TextTokenizer | None,
    vocab_size: int,
    val_fraction: float,
    num_workers: int | None = None,
) -> PreparedText:
    """Write a folder of shards, unless it is there already."""
    settings = {
        "format": FORMAT,
        "corpus": corpus.fingerprint,
        "vocab_size": vocab_size,
        "tokenizer": None,
        "val_fraction": val_fraction,
        "text_column": corpus.column,
    }
    if given is not None:
        settings |= {"vocab_size": None, "tokenizer": given.fingerprint}
    if not is_prepared(output):
        _check_folder(output)
        output.mkdir(parents=True, exist_ok=True)
        with _locked(output):
            if not is_prepared(output):  # another process may have made it while this one waited
                return _write(corpus, output, settings, given, num_workers or available_cores())
    index = read_index(output)
    if "settings" not in index:
        raise UserError(f"{output}: its shards were not made by `d2v prepare text`; give another folder")
    _check_settings(output, index["settings"], settings)
    return PreparedText.of(output, index, len(TextTokenizer.open(output / TOKENIZER)), created=False)


def _write(
    corpus: Corpus, output: Path, settings: dict[str, Any], given: TextTokenizer | None, num_workers: int
) -> PreparedText:
    """Make the tokenizer and the shards; the caller holds the lock."""
    unfinished = output / _UNFINISHED
    _begin(output, settings)
    start = time.perf_counter()
    if given is not None:
        write_text(output / TOKENIZER, given.to_json())
    elif not (output / TOKENIZER).is_file():
        # Without a terminal the library would still print the line breaks of its progress bars.
        progress = sys.stderr.isatty()
        write_text(output / TOKENIZER, TextTokenizer.train(sample(corpus), settings["vocab_size"], progress).to_json())
    tokenizer = TextTokenizer.open(output / TOKENIZER)
    trained = time.perf_counter()
    every = round(1 / settings["val_fraction"]) if settings["val_fraction"] else 0
    job = Job(output, unfinished, tokenizer.fingerprint, corpus.column, every)
    records, encoded = _encode(corpus, job, num_workers)
    seconds = time.perf_counter() - trained
    counts = {"files": len(corpus.files), "bytes": 0, "invalid": 0, "line_files": len(corpus.line_files)}
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for record in records:
        counts["bytes"] += record["bytes"]
        counts["invalid"] += record["invalid"]
        for split in SPLITS:
            if record[split]:
                splits[split].append(record[split])
    if not any(splits.values()):
        shutil.rmtree(unfinished)
        (output / TOKENIZER).unlink()
        raise UserError(f"input {corpus.files[0].path}: there is no text, only blank lines")
    write_index(output, tokenizer, splits, {"settings": settings, "corpus": counts})
    shutil.rmtree(unfinished)
    return PreparedText.of(output, read_index(output), len(tokenizer), True, trained - start, seconds, encoded)


def _begin(output: Path, settings: dict[str, Any]) -> None:
    """Check that unfinished work has the same settings, and delete half-written files."""
    unfinished = output / _UNFINISHED
    if (unfinished / _SETTINGS).is_file():
        _check_settings(output, json.loads((unfinished / _SETTINGS).read_text(encoding="utf-8")), settings)
    else:
        unfinished.mkdir(exist_ok=True)
        write_json(unfinished / _SETTINGS, settings)
    for part in (*output.glob(f"*{PART}"), *unfinished.glob(f"*{PART}")):
        part.unlink()


def _encode(corpus: Corpus, job: Job, num_workers: int) -> tuple[list[dict[str, Any]], float]:
    """The records of all jobs, in the order of the text, and the fraction of the bytes that was encoded now."""
    jobs = corpus.jobs()
    records, pending, left = {}, {}, 0
    for number, segments in enumerate(jobs):
        record = job.record(number)
        if record is not None:
            records[number] = record
        else:
            pending[number] = segments
            left += sum(segment.size for segment in segments)
    done = corpus.size - left
    with tqdm(total=corpus.size, initial=done, unit="B", unit_scale=True, desc="encode", disable=None) as bar:
        records |= dict(run_jobs(job, pending, num_workers, bar.update))
    return [records[number] for number in range(len(jobs))], left / corpus.size


def _check_settings(output: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise a UserError that names the settings that differ from those of the folder."""
    differences = []
    for key, value in now.items():
        if key not in ("corpus", "format") and before.get(key) != value:
            differences.append(f"{key} was {before.get(key)} and is {value}")
    if before.get("corpus") != now["corpus"]:
        differences.append("files of the input were added, removed or changed")
    if before.get("format") != now["format"]:
        differences.append("it was made by another version of d2v")
    if differences:
        raise UserError(
            f"{output}: was prepared differently ({'; '.join(differences)}); give another folder, or delete this one"
        )


def _check_folder(output: Path) -> None:
    """Raise a UserError if a folder holds something else than our own work."""
    if not output.is_dir() or (output / _UNFINISHED / _SETTINGS).is_file():
        return
    for path in sorted(output.iterdir()):
        if path.name not in (_LOCK, _UNFINISHED):
            raise UserError(f"{output}: holds something else, such as {path.name}; give another folder")


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Hold a lock that is released when the process ends, even if it is killed."""
    lock = FileLock(output / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s: another process is preparing it; waiting for it", output)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()

"""The steps of preparing text: a tokenizer, shards by their jobs, and the index that makes the folder complete."""

import functools
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2v.errors import UserError
from d2v.modalities.text.corpus.corpus_files import Corpus
from d2v.modalities.text.corpus.jobs import Job, run_jobs
from d2v.modalities.text.corpus.shard_writer import PART, write_index, write_json
from d2v.modalities.text.corpus.shards import SPLITS, read_index
from d2v.modalities.text.corpus.tokenizer_sample import sample
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.text.tokenizer_files import TOKENIZER
from d2v.progress_bar import Progress
from d2v.shares import Share
from d2v.whole_files import write_text

UNFINISHED = "unfinished"
"""Folder below the output, for what is removed when the index is written."""
SETTINGS = "settings.json"


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


class Preparing:
    """Makes the tokenizer, its share of the shards, and the index of all; the caller holds the lock where one must."""

    def __init__(
        self,
        corpus: Corpus,
        output: Path,
        settings: dict[str, Any],
        given: TextTokenizer | None,
        num_workers: int,
        share: Share,
    ) -> None:
        self.corpus, self.output, self.settings, self.given = corpus, output, settings, given
        self.num_workers, self.share = num_workers, share
        self.jobs = corpus.jobs()
        self._seconds: list[float] = []
        self._encoded = 0.0

    def begin(self) -> None:
        """Check that unfinished work has the same settings, and make the tokenizer, which all need."""
        start, output, settings = time.perf_counter(), self.output, self.settings
        unfinished, begun = output / UNFINISHED, {**settings, "processes": self.share.count}
        if (unfinished / SETTINGS).is_file():
            check_settings(output, json.loads((unfinished / SETTINGS).read_text(encoding="utf-8")), begun)
        else:
            unfinished.mkdir(exist_ok=True)
            write_json(unfinished / SETTINGS, begun)
        if self.given is not None:
            write_text(output / TOKENIZER, self.given.to_json())
        elif not (output / TOKENIZER).is_file():
            # Without a terminal the library would still print the line breaks of its progress bars.
            progress = sys.stderr.isatty()
            trained = TextTokenizer.train(sample(self.corpus), settings["vocab_size"], progress)
            write_text(output / TOKENIZER, trained.to_json())
        self._seconds.append(time.perf_counter() - start)

    def encode(self) -> None:
        """Do the jobs of its share that are not done."""
        start, own = time.perf_counter(), range(self.share.rank, len(self.jobs), self.share.count)
        pending = {number: self.jobs[number] for number in self.numbers_left() if number in own}
        total = sum(map(self._size, own))
        left = sum(map(self._size, pending))
        with Progress(total=total, initial=total - left, unit="B", unit_scale=True, desc="encode") as bar:
            for _ in run_jobs(self._job, pending, self.num_workers, bar.update):
                pass
        self._seconds.append(time.perf_counter() - start)
        self._encoded = left / self.corpus.size

    def _size(self, number: int) -> int:
        return sum(segment.size for segment in self.jobs[number])

    def numbers_left(self) -> list[int]:
        """Jobs without a record, whoever has to do them."""
        job = self._job
        return [number for number in range(len(self.jobs)) if job.record(number) is None]

    def finish(self) -> PreparedText:
        """Write the index, now that all jobs are done."""
        corpus, output, job = self.corpus, self.output, self._job
        counts = {"files": len(corpus.files), "bytes": 0, "invalid": 0, "line_files": len(corpus.line_files)}
        splits: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        for number in range(len(self.jobs)):
            record = job.record(number)
            assert record is not None
            counts["bytes"] += record["bytes"]
            counts["invalid"] += record["invalid"]
            for split in SPLITS:
                if record[split]:
                    splits[split].append(record[split])
        for part in output.glob(f"*{PART}"):  # of processes that were killed
            part.unlink()
        if not any(splits.values()):
            shutil.rmtree(job.records)
            (output / TOKENIZER).unlink()
            raise UserError(f"input {corpus.files[0].path}: there is no text, only blank lines")
        tokenizer = TextTokenizer.open(output / TOKENIZER)
        write_index(output, tokenizer, splits, {"settings": self.settings, "corpus": counts})
        shutil.rmtree(job.records)
        return PreparedText.of(output, read_index(output), len(tokenizer), True, *self._seconds, self._encoded)

    @functools.cached_property
    def _job(self) -> Job:
        fraction = self.settings["val_fraction"]
        every = round(1 / fraction) if fraction else 0
        tokenizer = TextTokenizer.open(self.output / TOKENIZER)
        return Job(self.output, self.output / UNFINISHED, tokenizer.fingerprint, self.corpus.column, every)


def check_settings(output: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare the settings of a folder with those that are asked for.

    Raises:
        UserError: Some differ, which it names.
    """
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

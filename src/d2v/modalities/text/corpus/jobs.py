"""The jobs of encoding a corpus, and the processes that do them.

A job reads its segments, writes its own shards and, last of all, a record of what it did. Processes exchange only
segments and counts.
"""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2v.data.loading_processes import watch
from d2v.modalities.text.corpus.corpus_files import Segment, spread
from d2v.modalities.text.corpus.documents import END, LINE, SegmentReader, utf8_size
from d2v.modalities.text.corpus.encoding import LineEncoder
from d2v.modalities.text.corpus.shard_writer import ShardWriter, dtype_for, write_json
from d2v.modalities.text.corpus.shards import SPLITS
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.text.tokenizer_files import TOKENIZER

START_METHOD = "spawn"  # a fork would copy locks that a thread of torch or tokenizers holds

_BATCH_CHARACTERS = 1 << 18


@dataclass(frozen=True)
class Job:
    """What all jobs of a folder share.

    Args:
        folder: holds ``tokenizer.json``; the shards are written into it.
        records: folder for the records of finished jobs.
        tokenizer: fingerprint of the tokenizer.
        column: the column that holds the text.
        every: every how many documents one is for validation; 0: never.
    """

    folder: Path
    records: Path
    tokenizer: str
    column: str
    every: int

    def record(self, number: int) -> dict[str, Any] | None:
        """The record that an earlier run left of a job; None if it did not finish the job."""
        try:
            record = json.loads((self.records / f"{number:05d}.json").read_text(encoding="utf-8"))
            if record["tokenizer"] != self.tokenizer:
                return None
            for split in SPLITS:
                entry = record[split]
                if entry and not all((self.folder / entry[key]).is_file() for key in ("file", "ends")):
                    return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record


class Worker:
    """Does jobs, one after the other.

    Args:
        job: what they share.
        progress: called with the number of bytes read since the last call; may raise to end the work.
    """

    def __init__(self, job: Job, progress: Callable[[int], object]) -> None:
        self._job = job
        self._progress = progress
        tokenizer = TextTokenizer.open(job.folder / TOKENIZER)
        self._dtype = dtype_for(tokenizer)
        self._encoder = LineEncoder(tokenizer, self._dtype)
        self._end_of_line = self._encoder.pack([tokenizer.eos_id])

    def run(self, number: int, segments: Sequence[Segment]) -> dict[str, Any]:
        """Write the shards of a job and its record.

        Raises:
            UserError: a file cannot be read, or is not what its name says.
            OSError: the folder cannot be written into.
        """
        writers = {split: ShardWriter(self._job.folder, split, number, self._dtype) for split in SPLITS}
        counts = {"bytes": 0, "invalid": 0}
        try:
            self._write(number, segments, writers, counts)
            entries = {split: writer.close() for split, writer in writers.items()}
            record: dict[str, Any] = {"tokenizer": self._job.tokenizer, **counts, **entries}
        finally:
            for writer in writers.values():
                writer.discard()
        write_json(self._job.records / f"{number:05d}.json", record)
        return record

    def _write(
        self, number: int, segments: Sequence[Segment], writers: dict[str, ShardWriter], counts: dict[str, int]
    ) -> None:
        # Each job starts counting at another number, so that the fraction holds even if jobs have few documents.
        document = spread(number, self._job.every)
        for segment in segments:
            reader = SegmentReader(segment, self._job.column)
            told = 0
            for texts, marks in _batches(reader):
                counts["bytes"] += sum(map(utf8_size, texts))
                ids = iter(self._encoder.encode(texts))
                for mark in marks:
                    writer = writers["train"]
                    if self._job.every and (document + 1) % self._job.every == 0:
                        writer = writers["val"]
                    if mark == END:
                        writer.end_document()
                        document += 1
                        continue
                    writer.write(next(ids))
                    if mark == LINE:
                        writer.write(self._end_of_line)
                self._progress(reader.read_bytes - told)
                told = reader.read_bytes
            counts["invalid"] += reader.invalid_bytes
            self._progress(segment.size - told)


def _batches(reader: SegmentReader) -> Iterator[tuple[list[str], list[int]]]:
    """Batches of texts, and the marks of all items; the end of a document has no text."""
    texts: list[str] = []
    marks: list[int] = []
    size = 0
    for text, mark in reader.read():
        marks.append(mark)
        if mark != END:
            texts.append(text)
            size += len(text)
            if size >= _BATCH_CHARACTERS:
                yield texts, marks
                texts, marks, size = [], [], 0
    yield texts, marks


def run_jobs(
    job: Job, pending: dict[int, list[Segment]], num_workers: int, progress: Callable[[int], object]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Do jobs in worker processes, or in this one if one is enough; yields each number and record when it is done.

    Raises:
        UserError: as :meth:`Worker.run`.
        RuntimeError: a worker process was killed.
    """
    num_workers = min(num_workers, len(pending))
    if num_workers <= 1:
        if pending:
            worker = Worker(job, progress)
            for number, segments in pending.items():
                yield number, worker.run(number, segments)
        return
    context = multiprocessing.get_context(START_METHOD)
    done_bytes, stop = context.Value("q", 0), context.Event()
    told = 0
    with ProcessPoolExecutor(num_workers, context, _begin, (job, done_bytes, stop)) as pool:
        try:
            futures: dict[Future, int] = {pool.submit(_work, n, segments): n for n, segments in pending.items()}
            while futures:
                done, _ = wait(futures, timeout=0.2, return_when=FIRST_COMPLETED)
                told, before = done_bytes.value, told
                progress(told - before)
                for future in done:
                    yield futures.pop(future), future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process was killed, perhaps because memory ran out; what is finished stays: run the same "
                "command again with fewer --num_workers"
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


class _Stopped(Exception):
    """The main process has given up."""


_worker: Worker | None = None


def _begin(job: Job, done_bytes: Any, stop: Any) -> None:
    """In each worker process, once."""
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process hears it too, and stops us
    watch()

    def progress(count: int) -> None:
        with done_bytes.get_lock():
            done_bytes.value += count
        if stop.is_set():
            raise _Stopped

    _worker = Worker(job, progress)


def _work(number: int, segments: list[Segment]) -> dict[str, Any]:
    assert _worker is not None
    return _worker.run(number, segments)

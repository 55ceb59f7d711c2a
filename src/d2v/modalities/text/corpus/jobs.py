"""Pieces of the work, and the processes that do them.

A job reads its segments and writes its own shards; what it did is written down last. Only what is asked and the counts
travel between processes.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2v.modalities.text.corpus.corpus_files import Segment, spread
from d2v.modalities.text.corpus.documents import END, LINE, SegmentReader
from d2v.modalities.text.corpus.encoding import LineEncoder
from d2v.modalities.text.corpus.shard_writer import ShardWriter, dtype_for, write_json
from d2v.modalities.text.corpus.shards import SPLITS
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.text.tokenizer_files import TOKENIZER

START_METHOD = "spawn"  # a fork would copy locks that a thread of torch or tokenizers holds

_BATCH_CHARACTERS = 1 << 18


@dataclass(frozen=True)
class Job:
    """What is the same for all jobs of a folder.

    Args:
        folder: with ``tokenizer.json``; the shards are written into it.
        records: folder for what was done.
        tokenizer: its fingerprint.
        column: that holds the text.
        every: one of so many documents is for validation; 0: none.
    """

    folder: Path
    records: Path
    tokenizer: str
    column: str
    every: int

    def record(self, number: int) -> dict[str, Any] | None:
        """What an earlier run did of a job; None if it did not finish it."""
        try:
            record = json.loads((self.records / f"{number:05d}.json").read_text(encoding="utf-8"))
            files = [entry[key] for split in SPLITS if (entry := record[split]) for key in ("file", "ends")]
            same = record["tokenizer"] == self.tokenizer and all((self.folder / file).is_file() for file in files)
            return record if same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


class Worker:
    """Does jobs, one after the other.

    Args:
        job: what they share.
        progress: is told how many bytes were read since it was told last; may raise to end the work.
    """

    def __init__(self, job: Job, progress: Callable[[int], object]) -> None:
        self._job = job
        self._progress = progress
        tokenizer = TextTokenizer.open(job.folder / TOKENIZER)
        self._dtype = dtype_for(tokenizer)
        self._encoder = LineEncoder(tokenizer, self._dtype)
        self._end_of_line = tokenizer.eos_id.to_bytes(2 if self._dtype == "uint16" else 4, "little")

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
        # Each job begins to count elsewhere, so that the fraction holds though a job may have few documents.
        document = spread(number, self._job.every)
        for segment in segments:
            reader = SegmentReader(segment, self._job.column)
            told = 0
            for texts, marks in _batches(reader):
                counts["bytes"] += sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
                ids = iter(self._encoder.encode(texts))
                for mark in marks:
                    held_out = self._job.every and (document + 1) % self._job.every == 0
                    writer = writers["val" if held_out else "train"]
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
    """Texts, and the marks of all items; an end of a document has no text."""
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
    """Do jobs in worker processes, or in this one if one is enough; numbers and records as they are done.

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
                "a worker process was killed, perhaps because memory ran out; what is finished stays: type the same "
                "again, with fewer --num_workers"
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
    threading.Thread(target=_die_with_parent, daemon=True).start()

    def progress(count: int) -> None:
        with done_bytes.get_lock():
            done_bytes.value += count
        if stop.is_set():
            raise _Stopped

    _worker = Worker(job, progress)


def _work(number: int, segments: list[Segment]) -> dict[str, Any]:
    assert _worker is not None
    return _worker.run(number, segments)


def _die_with_parent() -> None:
    """A main process that was killed outright takes its workers along."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

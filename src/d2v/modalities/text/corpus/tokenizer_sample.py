"""The part of a corpus that a tokenizer is trained on."""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from d2v.modalities.text.corpus.corpus_files import Corpus, Segment, TextFile, spread
from d2v.modalities.text.corpus.documents import SegmentReader, last_border, utf8_size

SAMPLE_BYTES = 128 << 20
"""At most so much text is sampled."""

DIFFERENT_LETTERS = 12 << 20
"""Bytes of different words, at most: the trainer takes about 100 bytes of memory for each byte. This is the limit that
text without spaces reaches first."""

_WINDOW = 1 << 20
_EXPANSION = 4  # about, of compressed files


def sample(corpus: Corpus, limit: int = SAMPLE_BYTES, letters: int = DIFFERENT_LETTERS) -> Iterator[str]:
    """Lines of a corpus: all of them, or those of windows of one MiB that are spread evenly over it.

    Any first few windows are spread over the whole corpus too, so it does not matter where reading stops.

    Args:
        corpus: the corpus to read.
        limit: bytes of text, at most (about).
        letters: bytes of different words, at most (about).
    """
    compressed = sum(file.size for file in corpus.files if file.compressed)
    if corpus.size + compressed * (_EXPANSION - 1) <= limit:
        return _bounded(_everything(corpus), limit, letters)
    return _bounded(_windows(corpus, limit), limit, letters)


def _everything(corpus: Corpus) -> Iterator[str]:
    for job in corpus.jobs():
        for segment in job:
            yield from _texts(SegmentReader(segment, corpus.column))


def _bounded(texts: Iterator[str], limit: int, letters: int) -> Iterator[str]:
    seen: set[str] = set()
    for text in texts:
        size = utf8_size(text)
        new = set(text.split()).difference(seen)
        limit -= size
        letters -= sum(map(len, new)) * size // max(1, len(text))
        seen |= new
        yield text
        if limit <= 0 or letters <= 0:
            return


def _windows(corpus: Corpus, limit: int) -> Iterator[str]:
    """The texts of windows, at most the size of a window from each. A window can span several files.

    A file that can only be read from its beginning is read once, for all windows in it.
    """
    starts = list(itertools.accumulate((file.size for file in corpus.files), initial=0))
    count = max(1, corpus.size // _WINDOW)
    room: dict[int, int] = {}
    for i in range(limit // _WINDOW):
        room[spread(i, count)] = _WINDOW
    streamed = set()
    for number in room:
        begin, end = number * _WINDOW, (number + 1) * _WINDOW
        for index in range(bisect_right(starts, begin) - 1, min(bisect_left(starts, end), len(corpus.files))):
            file = corpus.files[index]
            if room[number] <= 0:
                break
            if file.divisible or file.kind == "parquet":
                start, stop = max(begin - starts[index], 0), min(end - starts[index], file.size)
                for text in _of_part(file, start, stop, corpus):
                    yield text
                    room[number] -= len(text)
                    if room[number] <= 0:
                        break
            elif index not in streamed:
                streamed.add(index)
                yield from _of_stream(file, starts[index], room, corpus)


def _of_part(file: TextFile, start: int, stop: int, corpus: Corpus) -> Iterator[str]:
    """The texts that begin approximately between two bytes."""
    if file.kind in ("json", "tsv", "parquet"):
        first, last = start, stop
        if file.kind == "parquet":
            first, last = file.groups * start // file.size, file.groups * (stop - 1) // file.size + 1
        return _texts(SegmentReader(Segment(file.path, file.kind, first, last, stop - start), corpus.column))
    with open(file.path, "rb") as raw:
        raw.seek(start)
        text = raw.read(stop - start).decode("utf-8", "replace")
    lines = text.split("\n")
    if len(lines) > 2 and start:
        lines = lines[1:]
    if stop == file.size:
        return iter(lines)
    if len(lines) > 1:
        return iter(lines[:-1])
    return iter([text[: last_border(text)]])  # in the middle of a long line


def _of_stream(file: TextFile, start: int, room: dict[int, int], corpus: Corpus) -> Iterator[str]:
    """The texts of a file that lie in a window with room; the file begins at byte ``start`` of the corpus."""
    reader = SegmentReader(file.segments(file.size)[0], corpus.column)
    last = max(number for number in room if number * _WINDOW < start + file.size)  # no window after it
    for text in _texts(reader):
        now = (start + min(reader.read_bytes, file.size - 1)) // _WINDOW
        if now > last:
            return
        if room.get(now, 0) > 0:
            room[now] -= len(text)
            yield text


def _texts(reader: SegmentReader) -> Iterator[str]:
    for text, _ in reader.read():
        if text:
            yield text

"""The part of a corpus that a tokenizer is trained on."""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from d2v.modalities.text.corpus.corpus_files import Corpus, Segment, TextFile, spread
from d2v.modalities.text.corpus.documents import END, SegmentReader, last_border
from d2v.modalities.text.line_blocks import COMPRESSED

SAMPLE_BYTES = 128 << 20
"""Of text, at most."""

DIFFERENT_LETTERS = 12 << 20
"""Of different words, at most: the trainer takes about 100 bytes for each. Text without spaces gets there first."""

_WINDOW = 1 << 20
_EXPANSION = 4


def sample(corpus: Corpus, limit: int = SAMPLE_BYTES, letters: int = DIFFERENT_LETTERS) -> Iterator[str]:
    """Lines of a corpus: all, or of windows of one MiB that are spread evenly over it.

    The first few windows are spread over all of it as the others are, wherever the reading ends.

    Args:
        corpus: to read.
        limit: bytes of text, at most (about).
        letters: bytes of different words, at most (about).
    """
    expanded = sum(file.size * (_EXPANSION if _compressed(file) else 1) for file in corpus.files)
    if expanded <= limit:
        segments = (segment for job in corpus.jobs() for segment in job)
        return _bounded((text for segment in segments for text in _items(segment, corpus)), limit, letters)
    return _bounded(_windows(corpus, limit), limit, letters)


def _bounded(texts: Iterator[str], limit: int, letters: int) -> Iterator[str]:
    seen: set[str] = set()
    for text in texts:
        size = len(text) if text.isascii() else len(text.encode())
        new = set(text.split()).difference(seen)
        limit -= size
        letters -= sum(map(len, new)) * size // max(1, len(text))
        seen |= new
        yield text
        if limit <= 0 or letters <= 0:
            return


def _windows(corpus: Corpus, limit: int) -> Iterator[str]:
    """Texts of windows, which go on from a file into the next; at most a window's size of each.

    A file that can only be read from its beginning is read once, for all windows in it.
    """
    starts = list(itertools.accumulate((file.size for file in corpus.files), initial=0))
    count = max(1, corpus.size // _WINDOW)
    room = dict.fromkeys((spread(i, count) for i in range(limit // _WINDOW)), _WINDOW)
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
    """Texts that begin between two bytes, about."""
    if file.kind == "parquet":
        first, last = file.groups * start // file.size, file.groups * (stop - 1) // file.size
        return _items(Segment(file.path, file.kind, first, last + 1, stop - start), corpus)
    if file.kind in ("json", "tsv"):
        return _items(Segment(file.path, file.kind, start, stop, stop - start), corpus)
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
    """What is read while the file, which begins at ``start`` of the corpus, is within a window with room."""
    reader = SegmentReader(file.segments(file.size)[0], corpus.column, exact=True)
    last = max(number for number in room if number * _WINDOW < start + file.size)
    for text in _texts(reader):
        now = (start + min(reader.read_bytes, file.size - 1)) // _WINDOW
        if now > last:
            return
        if room.get(now, 0) > 0:
            room[now] -= len(text)
            yield text


def _items(segment: Segment, corpus: Corpus) -> Iterator[str]:
    return _texts(SegmentReader(segment, corpus.column))


def _texts(reader: SegmentReader) -> Iterator[str]:
    return (text for text, mark in reader.read() if mark != END)


def _compressed(file: TextFile) -> bool:
    return file.path.lower().endswith(COMPRESSED)

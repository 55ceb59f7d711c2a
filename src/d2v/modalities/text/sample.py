"""The part of a corpus that a tokenizer is trained on."""

import itertools
from bisect import bisect_right
from collections.abc import Iterator

from d2v.modalities.text.corpus import WHOLE, Corpus, Segment, TextFile
from d2v.modalities.text.raw_files import COMPRESSED
from d2v.modalities.text.reading import END, SegmentReader, last_border

SAMPLE_BYTES = 128 << 20
"""Of text, at most."""

DIFFERENT_LETTERS = 12 << 20
"""Of different words, at most: the trainer takes about 100 bytes for each. Text without spaces gets there first."""

_WINDOW = 1 << 20
_EXPANSION = 4
_GOLDEN = 0.6180339887498949


def sample(corpus: Corpus, limit: int = SAMPLE_BYTES, letters: int = DIFFERENT_LETTERS) -> Iterator[str]:
    """Lines of a corpus: all, or of windows of one MiB that are spread evenly over it.

    Windows follow each other like multiples of the golden ratio, so they are spread evenly wherever the reading ends.

    Args:
        corpus: to read.
        limit: bytes of text, at most (about).
        letters: bytes of different words, at most (about).
    """
    expanded = sum(file.size * (_EXPANSION if _compressed(file) else 1) for file in corpus.files)
    if expanded <= limit:
        segments = (segment for job in corpus.jobs() for segment in job)
        return _bounded((item[0] for segment in segments for item in _items(segment, corpus)), limit, letters)
    return _bounded(itertools.chain.from_iterable(_windows(corpus, limit)), limit, letters)


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


def _windows(corpus: Corpus, limit: int) -> Iterator[Iterator[str]]:
    """Texts of windows; of files that can only be read from their beginning, at once of all windows in them."""
    starts = list(itertools.accumulate((file.size for file in corpus.files), initial=0))
    count = max(1, corpus.size // _WINDOW)
    chosen = dict.fromkeys(int(i * _GOLDEN % 1 * count) for i in range(limit // _WINDOW))
    places = [(bisect_right(starts, number * _WINDOW) - 1, number * _WINDOW) for number in chosen]
    of_file: dict[int, list[int]] = {}
    for index, position in places:
        of_file.setdefault(index, []).append((position - starts[index]) // _WINDOW)
    read_whole = set()
    for index, position in places:
        file = corpus.files[index]
        if file.kind == "parquet":
            yield _of_parquet(file, position - starts[index], corpus)
        elif file.divisible:
            yield _of_lines(file, position - starts[index], corpus)
        elif index not in read_whole:
            read_whole.add(index)
            yield _of_stream(file, set(of_file[index]), corpus)


def _of_lines(file: TextFile, start: int, corpus: Corpus) -> Iterator[str]:
    stop = min(start + _WINDOW, file.size)
    if file.kind in ("json", "tsv"):
        return _first(_items(Segment(file.path, file.kind, start, stop, stop - start), corpus))
    with open(file.path, "rb") as raw:
        raw.seek(start)
        text = raw.read(stop - start).decode("utf-8", "replace")
    lines = text.split("\n")
    if len(lines) > 2 and start:
        lines = lines[1:]
    if len(lines) > 1:
        return iter(lines[:-1])
    return iter([text[: last_border(text)]])  # in the middle of a long line


def _of_parquet(file: TextFile, position: int, corpus: Corpus) -> Iterator[str]:
    group = min(file.groups - 1, file.groups * position // file.size)
    return _first(_items(Segment(file.path, file.kind, group, group + 1, _WINDOW), corpus))


def _of_stream(file: TextFile, windows: set[int], corpus: Corpus) -> Iterator[str]:
    """What is read while the file on the disk is within one of the windows, at most as much of each."""
    reader = SegmentReader(Segment(file.path, file.kind, 0, WHOLE, file.size), corpus.column)
    window, room = -1, 0
    for text, _ in reader.read():
        if (now := reader.read_bytes // _WINDOW) != window:
            window, room = now, _WINDOW
            if now > max(windows):
                return
        if now in windows and room > 0:
            room -= len(text)
            yield text


def _first(items: Iterator[tuple[str, int]]) -> Iterator[str]:
    room = _WINDOW
    for text, _ in items:
        yield text
        room -= len(text)
        if room <= 0:
            return


def _items(segment: Segment, corpus: Corpus) -> Iterator[tuple[str, int]]:
    return (item for item in SegmentReader(segment, corpus.column).read() if item[1] != END)


def _compressed(file: TextFile) -> bool:
    return file.path.lower().endswith(COMPRESSED)

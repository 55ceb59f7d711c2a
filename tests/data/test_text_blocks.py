"""Where the stream is cut, against a slow reference that reads like the rule."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2v.modalities.text.corpus import blocks
from d2v.modalities.text.corpus.blocks import LEAST_TOKENS, EvenBlocks, SentenceBlocks, sentence_blocks

EOS = 2
# Words of a sentence, by sentence and document; an empty document is one without a sentence, and a sentence without
# words is an empty line, which ends a document too.
corpora = st.lists(st.lists(st.integers(0, 40), max_size=12), min_size=1, max_size=12)


class Stream:
    """What the cutting asks of a split's shards."""

    tokenizer = SimpleNamespace(eos_id=EOS)
    folder = Path("stream")

    def __init__(self, corpus: list[list[int]]) -> None:
        documents = [[token for words in sentences for token in [5] * words + [EOS]] for sentences in corpus]
        self.document_ends = np.cumsum([len(document) for document in documents])
        self._tokens = np.array([token for document in documents for token in document], dtype=np.int64)
        self.num_tokens = len(self._tokens)
        self.fingerprint = "-".join(str(words) for document in corpus for words in [*document, "end"])[:100]

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._tokens[start:stop]


def spans(found: EvenBlocks | SentenceBlocks) -> list[tuple[int, int]]:
    return [found.span(index) for index in range(len(found))]


def whole_sentences(corpus: list[list[int]], room: int) -> list[tuple[int, int]]:
    """Blocks of a corpus, sentence by sentence: (start, stop)."""
    found, start = [], 0
    for sentences in corpus:
        stop = start
        for words in sentences:
            if words == 0:
                found += [(start, stop), (stop, stop + 1)]
                start = stop = stop + 1
                continue
            if stop + words + 1 - start > room and stop > start:
                found.append((start, stop))
                start = stop
            stop += words + 1
            while stop - start > room:
                found.append((start, start + room))
                start += room
        if stop > start:
            found.append((start, stop))
        start = stop
    return [(start, stop) for start, stop in found if stop > start]


@settings(max_examples=200, deadline=None)
@given(corpus=corpora, block_size=st.integers(LEAST_TOKENS, 60), window=st.integers(1, 300))
def test_blocks_of_whole_sentences(corpus: list[list[int]], block_size: int, window: int) -> None:
    stream = Stream(corpus)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_WINDOW", window)
        cuts = blocks._find_cuts(stream, block_size - 1)
    reference = whole_sentences(corpus, block_size - 1)
    assert cuts.tolist() == [0, *(stop for _, stop in reference)]
    found = SentenceBlocks(cuts)
    kept = [(start, stop) for start, stop in reference if stop - start + 1 >= LEAST_TOKENS]
    assert spans(found) == kept
    assert found.num_short == sum(stop - start > 1 for start, stop in reference) - len(kept)
    assert found.lengths.tolist() == [stop - start + 1 for start, stop in kept]


@settings(max_examples=200, deadline=None)
@given(num_tokens=st.integers(0, 300), block_size=st.integers(LEAST_TOKENS, 60))
def test_even_blocks(num_tokens: int, block_size: int) -> None:
    room = block_size - 1
    reference = [(start, min(start + room, num_tokens)) for start in range(0, num_tokens, room)]
    if reference and reference[-1][1] - reference[-1][0] + 1 < LEAST_TOKENS:
        reference.pop()
    found = EvenBlocks(num_tokens, block_size)
    assert spans(found) == reference
    assert found.lengths.tolist() == [stop - start + 1 for start, stop in reference]


def test_where_a_split_is_cut_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    stream = Stream([[20, 3, 30], [0], [9]])
    first = sentence_blocks(stream, 24)
    # A third sentence of 31 tokens: the second stands alone and is too short, and so is the second document.
    assert spans(first) == [(0, 21), (25, 48), (48, 56), (57, 67)]
    assert first.num_short == 1, "an empty line is no block"
    monkeypatch.setattr(stream, "read", None)
    assert spans(sentence_blocks(stream, 24)) == spans(first)
    assert len(list(tmp_path.rglob("text-blocks/stream-*.npz"))) == 1

"""How the token stream of a corpus is cut into samples.

Source: fairseq ``TokenBlockDataset`` (``token_block_utils_fast.pyx``), break modes ``none`` and ``complete_doc``.
"""

from abc import ABC, abstractmethod

import numpy as np

from d2v.data.user_cache import cached_arrays
from d2v.modalities.text.corpus.shards import Shards
from d2v.progress_bar import Progress

LEAST_TOKENS = 8
"""Shorter blocks, ``<s>`` included, are left out: BERT's 15% of seven tokens is one, and of fewer none."""

# Tokens of the stream that are cut at a time: 32 MB as int64.
_WINDOW = 1 << 22


class Blocks(ABC):
    """Spans of the stream, in order. A sample is ``<s>`` and the tokens of a span."""

    num_short: int
    """Number of blocks left out because they are too short."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def span(self, index: int) -> tuple[int, int]:
        """Start and stop of a block in the stream: its first token, and the one after its last."""

    @property
    @abstractmethod
    def lengths(self) -> np.ndarray:
        """int64 [n]: tokens of each block, ``<s>`` included."""


class EvenBlocks(Blocks):
    """``none``: the stream of all documents in spans of ``block_size - 1`` tokens; the last has what is left.

    Args:
        num_tokens: tokens of the stream.
        block_size: tokens of a block, ``<s>`` included.
    """

    def __init__(self, num_tokens: int, block_size: int) -> None:
        self._span = block_size - 1
        rest = num_tokens % self._span
        self.num_short = int(0 < rest < LEAST_TOKENS - 1)
        self._stop = num_tokens - rest * self.num_short

    def __len__(self) -> int:
        return -(-self._stop // self._span)

    def span(self, index: int) -> tuple[int, int]:
        start = index * self._span
        return start, min(start + self._span, self._stop)

    @property
    def lengths(self) -> np.ndarray:
        lengths = np.full(len(self), self._span + 1, dtype=np.int64)
        if len(self):
            lengths[-1] = self._stop - (len(self) - 1) * self._span + 1
        return lengths


class SentenceBlocks(Blocks):
    """``complete_doc``: whole sentences of one document, as many as fit. Takes 12 bytes of memory per block.

    Args:
        cuts: int64 [m + 1], ascending: where blocks begin and end, including those that are too short and the single
            ``</s>`` between documents.
    """

    def __init__(self, cuts: np.ndarray) -> None:
        tokens = np.diff(cuts)
        kept = tokens + 1 >= LEAST_TOKENS
        self._starts, self._tokens = cuts[:-1][kept], tokens[kept].astype(np.int32)
        self.num_short = int((tokens > 1).sum()) - len(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def span(self, index: int) -> tuple[int, int]:
        start = int(self._starts[index])
        return start, start + int(self._tokens[index])

    @property
    def lengths(self) -> np.ndarray:
        return self._tokens.astype(np.int64) + 1


def sentence_blocks(shards: Shards, block_size: int) -> SentenceBlocks:
    """Cut a split at the ends of its sentences and documents; the cuts are kept in the user's cache folder.

    Unlike in fairseq, a sentence that is longer than a block is cut, and its rest begins the next block.

    Args:
        shards: the split; each sentence in it ends with ``</s>``.
        block_size: largest number of tokens of a block, ``<s>`` included.
    """
    key = f"{shards.fingerprint}-{block_size}"

    def compute() -> dict[str, np.ndarray]:
        return {"cuts": _find_cuts(shards, block_size - 1)}

    return SentenceBlocks(cached_arrays("text-blocks", key, compute, made_of=shards.folder)["cuts"])


def _find_cuts(shards: Shards, room: int) -> np.ndarray:
    """int64 [m + 1]: 0, and the end of each block of at most ``room`` tokens."""
    eos, total = shards.tokenizer.eos_id, shards.num_tokens
    document_ends = np.unique(shards.document_ends)  # an empty document ends where the one before it ends
    cuts = [np.zeros(1, dtype=np.int64)]
    position = 0  # everything before it has been cut
    window = max(_WINDOW, 2 * room)
    with Progress(total=total, desc="cutting text into blocks", unit="token", unit_scale=True, delay=2) as bar:
        while position < total:
            stop = min(position + window, total)
            sentence_ends = position + 1 + np.flatnonzero(shards.read(position, stop) == eos)
            first, last = np.searchsorted(document_ends, (position, stop), side="right")
            # A sentence without words lies between documents, and is in no block (fairseq's document_sep_len).
            whole = position == 0 or shards.read(position - 1, position)[0] == eos
            empty = sentence_ends[np.diff(sentence_ends, prepend=position if whole else -1) == 1]
            ends = np.unique(np.concatenate([document_ends[first:last], empty - 1, empty]))
            found = _cut_window(position, stop, sentence_ends, ends[ends > position], room)
            cuts.append(found)
            bar.update(int(found[-1]) - position)
            position = int(found[-1])
    return np.concatenate(cuts)


def _cut_window(start: int, stop: int, sentence_ends: np.ndarray, document_ends: np.ndarray, room: int) -> np.ndarray:
    """Ends of the blocks in [start, stop), ascending; of a document that goes on after it only blocks that are certain.

    Each step cuts one block of every document, so that a corpus of short documents takes a few steps, and a long
    document takes one step per block.
    """
    ends, last_certain = document_ends, document_ends
    if not len(ends) or ends[-1] != stop:
        # The last document goes on: a block of it is certain if all that it may hold lies in the window.
        ends, last_certain = np.append(ends, stop), np.append(ends, stop - room + 1)
    position = np.append(start, ends[:-1])
    sentence_ends = np.append(start, sentence_ends)  # so that one lies before every block
    found: list[np.ndarray] = []
    while True:
        going_on = position < last_certain
        if not going_on.any():
            return np.sort(np.concatenate(found))
        position, ends, last_certain = position[going_on], ends[going_on], last_certain[going_on]
        reach = np.minimum(position + room, ends)
        sentence_end = sentence_ends[np.searchsorted(sentence_ends, reach, side="right") - 1]
        position = np.where(sentence_end > position, sentence_end, reach)
        found.append(position)

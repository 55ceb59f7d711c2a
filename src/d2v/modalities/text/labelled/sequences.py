"""Texts as token ids, all of a split in one array, and batches of them."""

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Int64
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from d2v.data.broken_samples import SkippedSamples
from d2v.data.samples import SampleDataset
from d2v.data.user_cache import cached_arrays
from d2v.errors import UserError
from d2v.modalities.text.labelled.examples import Examples
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.progress_bar import Progress

_AT_ONCE = 1000  # rows that are tokenised together, on all cores
_WORTH_KEEPING = 5_000_000  # bytes of text: some seconds


class Sequences:
    """Token ids of many sequences, four bytes a token; worker processes share them by fork.

    Args:
        ids: int32 [tokens], the ids of all sequences, one after the other.
        ends: int64 [n + 1], 0 and the end of each sequence in ``ids``.
        num_cut: How many sequences were cut to the maximal length.
    """

    def __init__(self, ids: np.ndarray, ends: np.ndarray, num_cut: np.ndarray) -> None:
        self.num_cut = int(num_cut)
        self._ids, self._ends = ids, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Int64[Tensor, "n"]:
        return torch.from_numpy(self._ids[self._ends[index] : self._ends[index + 1]].astype(np.int64))


def tokenise(examples: Examples, tokenizer: TextTokenizer, max_length: int) -> Sequences:
    """Token ids of each row: ``<s> a </s>``, or ``<s> a </s> </s> b </s>``. A large result is kept in the user's cache.

    Args:
        examples: Rows of one text or two.
        tokenizer: Makes the tokens.
        max_length: Most tokens of a row, including the special ones; the longer text is cut first.

    Raises:
        UserError: The special tokens alone are longer.
    """
    if max_length < 3 * len(examples.texts):  # two special tokens a text, and one of its own
        raise UserError(f"data.max_length is {max_length}: there is no room for a text beside the special tokens.")
    digest = blake2b(f"{tokenizer.fingerprint} {max_length} {len(examples.texts)}".encode(), digest_size=12)
    size = 0
    for column in examples.texts:
        for index in range(len(column)):
            text = column[index].encode(errors="replace")
            digest.update(text + b"\0")
            size += len(text)
    if size < _WORTH_KEEPING:
        return Sequences(**_tokenised(examples, tokenizer, max_length))
    return Sequences(
        **cached_arrays("text-tokens", digest.hexdigest(), lambda: _tokenised(examples, tokenizer, max_length))
    )


def _tokenised(examples: Examples, tokenizer: TextTokenizer, max_length: int) -> dict[str, np.ndarray]:
    parts, ends, num_cut = [], [0], 0
    for texts in _encoded(examples, tokenizer):
        sequence = tokenizer.sequence(*texts, max_length=max_length)
        num_cut += len(sequence) < sum(map(len, texts)) + 2 * len(texts)
        parts.append(np.array(sequence, dtype=np.int32))
        ends.append(ends[-1] + len(sequence))
    return {"ids": np.concatenate(parts), "ends": np.array(ends, dtype=np.int64), "num_cut": np.array(num_cut)}


def _encoded(examples: Examples, tokenizer: TextTokenizer) -> Iterator[tuple[np.ndarray, ...]]:
    """Ids of the texts of each row; shows a progress bar if it takes more than some seconds."""
    hidden = getattr(rank_zero_only, "rank", 0) not in (0, None)
    with Progress(total=len(examples), desc="tokenise", unit="text", delay=3, leave=False, disable=hidden) as bar:
        for start in range(0, len(examples), _AT_ONCE):
            stop = min(start + _AT_ONCE, len(examples))
            columns = []
            for texts in examples.texts:
                columns.append(tokenizer.encode_batch([texts[i] for i in range(start, stop)]))
            yield from zip(*columns, strict=True)
            bar.update(stop - start)


class SentenceDataset(SampleDataset):
    """Token ids int64 [N] that begin with ``<s>``; nothing here is random.

    Args:
        sequences: The texts.
        labels: Label of each: classes int64, scores float32; None if there are none.
        skipped: Record of broken samples, which knows their names.
    """

    def __init__(self, sequences: Sequences, labels: np.ndarray | None, skipped: SkippedSamples) -> None:
        super().__init__(len(sequences), 0, skipped)
        self._sequences, self._labels = sequences, labels

    def load(self, index: int) -> tuple[Tensor, Tensor | None]:
        if self._labels is None:
            return self._sequences[index], None
        return self._sequences[index], torch.tensor(self._labels[index])

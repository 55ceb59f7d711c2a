"""Spans that start at random places and may overlap, as fairseq draws them for speech and text 1.0 and fine-tuning.

Sources: fairseq ``compute_mask_indices`` (``data_utils.py``); for text ``MaskTokensDataset``.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from d2v.model.randomness import keyed_uniform, with_exact_count

_EACH_LENGTH, _STEP = 256, 16
"""Up to 256 tokens counts are computed at each length, above at each 16th: between them they are straight to 0.1%."""


@dataclass(frozen=True)
class RandomSpans:
    """``prob * N / span`` spans in a row of N positions, rounded up or down at random, from distinct random starts.

    Args:
        prob: Share of the positions that they would cover without overlaps.
        span: Positions of a span.
        inside: They end before the last position (speech); False: they start anywhere and are cut at the end (text).
    """

    prob: float
    span: int
    inside: bool = True

    def draw(
        self,
        keys: Int64[Tensor, "r"],
        lengths: Int64[Tensor, "r"],
        size: int,
        counts: Int64[Tensor, "r"] | None = None,
        uncover: bool = True,
    ) -> Bool[Tensor, "r n"]:
        """Which positions are covered, all among the first ``lengths`` of ``size``.

        Args:
            keys: Of each row's randomness.
            lengths: Positions of each row that are no padding.
            size: N, of the longest row.
            counts: How many are covered; None: as many as the spans cover.
            uncover: Where the spans cover more, random positions are uncovered; False: just as many spans are taken as
                cover the count, and the last one is cut.
        """
        rounding, start_u = keyed_uniform(keys, 1, stream=2), keyed_uniform(keys, size, stream=1)
        most = (lengths[:, None] - 1).clamp(min=0)
        spans = torch.minimum((lengths[:, None] * (self.prob / self.span) + rounding).long(), most)
        position = torch.arange(size, device=keys.device)
        starts = lengths[:, None] - self.span if self.inside else lengths[:, None]
        start_u = start_u.masked_fill(position >= torch.maximum(starts, spans + 1), 2.0)
        # Spans come in the order of their starts' numbers: a position's turn is the least number that reaches it.
        turn = -F.max_pool1d(F.pad(-start_u, (self.span - 1, 0), value=-2.0), self.span, stride=1)
        turn = turn.masked_fill(position >= lengths[:, None], 3.0)
        covered = turn < start_u.sort(dim=1).values.gather(1, spans)
        if counts is None:
            return covered
        first = position < counts[:, None]
        first = torch.zeros_like(covered).scatter_(1, turn.argsort(dim=1, stable=True), first)
        return with_exact_count(first | covered, counts, keys, lengths) if uncover else first

    def counts(
        self, longest: int, shared_by: int | None, size: int | None = None, device: torch.device | str = "cpu"
    ) -> Int64[Tensor, "_"]:
        """How many positions to cover for 0, 1, ... tokens, up to ``longest`` or more.

        fairseq uncovers random positions of each row of a batch until it has as many as the row with fewest, so that a
        mask depends on who shares the batch. Here each has what is to be expected of the least of as many rows.

        Args:
            longest: Tokens of the longest row.
            shared_by: Tokens of a batch, which has ``shared_by // N`` rows of N tokens; None: each row is alone.
            size: Positions of a row, where they are not its tokens.
            device: Where the numbers are wanted; they are kept there, so that no step waits for it.
        """
        return self._counts(1 << (longest - 1).bit_length(), shared_by, size, device)

    @lru_cache(maxsize=64)  # noqa: B019  # a value: nothing to be freed
    def _counts(
        self, longest: int, shared_by: int | None, size: int | None, device: torch.device | str
    ) -> Int64[Tensor, "_"]:
        tokens = np.arange(longest + 1)
        lengths = tokens[(tokens <= _EACH_LENGTH) | (tokens % _STEP == 0)]
        rows = np.maximum((shared_by or 0) // lengths.clip(1), 1)
        expected = [(self._at_least(size or n) ** k).sum() for n, k in zip(lengths.tolist(), rows, strict=True)]
        counts = np.interp(tokens, lengths, expected).round()
        if size is None:  # of a row hardly longer than a span something is seen, and something masked
            counts = counts.clip(1, np.minimum(tokens - 1, tokens * self.prob).clip(1)) * (tokens > 1)
        return torch.from_numpy(counts.astype(np.int64)).to(device)

    @lru_cache(maxsize=4096)  # noqa: B019
    def _at_least(self, size: int) -> Float64[np.ndarray, "n"]:
        """Probabilities that at least 1, 2, ... positions of ``size`` are covered."""
        spans, more = divmod(min(self.prob * size / self.span, max(size - 1, 0)), 1)
        exactly = (1 - more) * self._exactly(size, int(spans)) + more * self._exactly(size, int(spans) + 1)
        return exactly[::-1].cumsum()[::-1][1:].clip(0, 1)

    def _exactly(self, size: int, spans: int) -> Float64[np.ndarray, "_"]:
        """Probabilities that so many spans cover 0, 1, ... positions of ``size``.

        The starts are a random choice of places. A span covers the distance to the next start, or the whole span if
        that is ``far``; the last one covers a span, or what is left. So the choices are counted by how many distances
        are far, and by the sum of the others: the other places lie anywhere before, behind and in the far ones.
        """
        places = max(size - self.span, spans + 1) if self.inside else size
        distances, ends = (spans - 1, 2) if self.inside else (spans, 1)
        log_factorial = np.append(0.0, np.log(np.arange(1, size + distances + 3)).cumsum())

        def log_choices(of: np.ndarray | int, chosen: int) -> np.ndarray:
            return log_factorial[of] - log_factorial[chosen] - log_factorial[of - chosen]

        probability = np.zeros(size + 1)
        if spans == 0:
            probability[0] = 1
            return probability
        near_sum = np.ones(
            1
        )  # of as many numbers as are near, each 1 to span - 1 with the same probability: from the least
        for near in range(distances + 1):
            far = distances - near
            covered = far * self.span + near + np.arange(len(near_sum))
            left = places - self.inside - covered
            fits = left >= 0
            ways = log_choices(left[fits] + far + ends - 1, far + ends - 1) + log_choices(distances, far)
            ways += near * np.log(max(self.span - 1, 1)) - log_choices(places, spans)
            covered = np.minimum(covered[fits] + self.span * self.inside, size)
            np.add.at(probability, covered, near_sum[fits] * np.exp(ways))
            if self.span == 1:
                break
            near_sum = np.convolve(near_sum, np.full(self.span - 1, 1 / (self.span - 1)))
        return probability


def require_shared_by(shared_by: int | None) -> None:
    """Raises ValueError if it is no number of tokens."""
    if shared_by is not None and shared_by < 1:
        raise ValueError(f"shared_by must be at least 1 token, or null, not {shared_by}")

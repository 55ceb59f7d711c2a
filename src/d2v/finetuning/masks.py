"""Masks against overfitting: spans of time steps and of channels (wav2vec 2.0 in fine-tuning, after SpecAugment)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64
from torch import Tensor

from d2v.model.randomness import keyed_uniform
from d2v.types import TokenSequence


@dataclass(frozen=True)
class TokenMasks:
    """Hides random spans of extracted tokens, in training only, before positions are added.

    Spans may overlap: a probability of 0.65 masks about half of the steps. fairseq then thins out the masks of a batch
    to the count of its shortest clip and draws at least two spans; here a clip's masks depend on its own length alone.

    Args:
        time_prob: Share of the time steps that the spans would mask without overlaps.
        time_length: Steps of a span; a clip that is not longer has none.
        channel_prob: The same for channels, which are zero for the whole clip.
        channel_length: Neighbouring channels of a span.
    """

    time_prob: float = 0.0
    time_length: int = 10
    channel_prob: float = 0.0
    channel_length: int = 64

    def __post_init__(self) -> None:
        for name in ("time_prob", "channel_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        for name in ("time_length", "channel_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def apply(
        self, sequence: TokenSequence, keys: Int64[Tensor, "b"], mask_token: Tensor | None = None
    ) -> tuple[TokenSequence, Bool[Tensor, "b n"]]:
        """Masked tokens, and which time steps are masked; never one of padding.

        Args:
            sequence: What the feature extractor gives.
            keys: Of each clip's randomness.
            mask_token: [D], what stands at masked steps; None: zeros.
        """
        tokens = sequence.tokens
        num_tokens, width = tokens.shape[1:]
        padding = sequence.padding_mask
        lengths = torch.full_like(keys, num_tokens) if padding is None else (~padding).sum(dim=1)
        steps = random_spans(keys, lengths, num_tokens, self.time_prob, self.time_length, stream=0)
        widths = torch.full_like(keys, width)
        channels = random_spans(keys, widths, width, self.channel_prob, self.channel_length, stream=2)
        if self.time_prob:
            value = tokens.new_zeros(()) if mask_token is None else mask_token.to(tokens.dtype)
            tokens = torch.where(steps[..., None], value, tokens)
        if self.channel_prob:
            tokens = tokens.masked_fill(channels[:, None], 0)
        return TokenSequence(tokens, sequence.grid, padding), steps


def random_spans(
    keys: Int64[Tensor, "b"], lengths: Int64[Tensor, "b"], size: int, prob: float, length: int, stream: int
) -> Bool[Tensor, "b n"]:
    """Distinct spans that lie wholly inside the first ``lengths`` of ``size`` positions of each row.

    ``prob * lengths / length`` spans a row, the fraction being rounded up or down at random.
    """
    if prob == 0:
        return torch.zeros(len(keys), size, dtype=torch.bool, device=keys.device)
    rounding = keyed_uniform(keys, 1, stream)[:, 0]
    count = (prob * lengths / length + rounding).floor()
    position = torch.arange(size, device=keys.device)
    possible = (position + length <= lengths[:, None]) & (lengths > length)[:, None]
    order = keyed_uniform(keys, size, stream + 1).masked_fill(~possible, 2.0).argsort(dim=1, stable=True)
    starts = (order.argsort(dim=1) < count[:, None]) & possible
    # A position is masked if one of the last `length` positions is a start.
    return F.max_pool1d(F.pad(starts.float(), (length - 1, 0)), length, stride=1) > 0

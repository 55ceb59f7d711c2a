"""What is done to training batches against overfitting: masked spans, and blended pictures or spectrograms."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from d2v.errors import UserError
from d2v.model.random_spans import RandomSpans, require_shared_by
from d2v.model.randomness import combine_keys
from d2v.types import TokenSequence


@dataclass(frozen=True)
class TokenMasks:
    """Hides random spans of time steps and of channels (wav2vec 2.0 in fine-tuning, after SpecAugment).

    It is applied in training only, to extracted tokens before positions are added. Spans may overlap: a probability of
    0.65 masks about half of the steps. How much is masked of a clip depends on its own length alone.

    Args:
        time_prob: Share of the time steps that the spans would mask without overlaps.
        time_length: Steps of a span; a clip that is not longer has none.
        channel_prob: The same for channels, which are zero for the whole clip.
        channel_length: Neighbouring channels of a span.
        shared_by: Tokens of a batch, in which fairseq masks as many of each clip as of the one with fewest, steps and
            channels, by uncovering random ones (:meth:`~d2v.model.random_spans.RandomSpans.counts`); null: whole spans.
    """

    time_prob: float = 0.0
    time_length: int = 10
    channel_prob: float = 0.0
    channel_length: int = 64
    shared_by: int | None = None

    def __post_init__(self) -> None:
        _require_probabilities(time_prob=self.time_prob, channel_prob=self.channel_prob)
        for name, value in (("time_length", self.time_length), ("channel_length", self.channel_length)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        require_shared_by(self.shared_by)

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
        lengths = torch.full_like(keys, num_tokens)
        if sequence.padding_mask is not None:
            lengths = (~sequence.padding_mask).sum(dim=1)
        steps = torch.zeros(len(keys), num_tokens, dtype=torch.bool, device=keys.device)
        if self.time_prob:
            steps = self._draw(RandomSpans(self.time_prob, self.time_length), keys, lengths, num_tokens)
            steps &= (lengths > self.time_length)[:, None]
            hidden = tokens.new_zeros(()) if mask_token is None else mask_token.to(tokens.dtype)
            tokens = torch.where(steps[..., None], hidden, tokens)
        if self.channel_prob:
            spans = RandomSpans(self.channel_prob, self.channel_length)
            channels = self._draw(spans, combine_keys(keys, 1), lengths, num_tokens, width)
            tokens = tokens.masked_fill(channels[:, None], 0)
        return TokenSequence(tokens, sequence.grid, sequence.padding_mask), steps

    def _draw(
        self, spans: RandomSpans, keys: Int64[Tensor, "b"], lengths: Int64[Tensor, "b"], longest: int, width: int = 0
    ) -> Bool[Tensor, "b _"]:
        """Masks of a clip's steps, or of ``width`` channels."""
        counts = None
        if self.shared_by is not None:
            counts = spans.counts(longest, self.shared_by, width or None, keys.device)[lengths]
        if width:
            lengths = torch.full_like(lengths, width)
        return spans.draw(keys, lengths, width or longest, counts)


@dataclass(frozen=True)
class Mixing:
    """Mixup and CutMix: blends each picture or spectrogram of a training batch with the one before it, all by the same
    share.

    Args:
        mixup: Alpha of the beta distribution of the share with which whole pictures are blended (mixup, arXiv
            1710.09412); 0: never.
        cutmix: The same for the area of a rectangle that comes from the other picture (CutMix, arXiv 1905.04899).
        prob: Probability that a batch is mixed at all.
        switch_prob: Probability of CutMix where both may be.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    prob: float = 1.0
    switch_prob: float = 0.5

    def __post_init__(self) -> None:
        _require_probabilities(prob=self.prob, switch_prob=self.switch_prob)
        for name, value in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if value < 0:
                raise ValueError(f"{name} must be 0 (never) or more, not {value}")
        if not self.mixup and not self.cutmix:
            raise ValueError("mixup and cutmix are both 0: set one of them, or model.mixing to null")

    def apply(
        self, pixels: Float[Tensor, "b c h w"], labels: Int64[Tensor, "b"] | Float[Tensor, "b k"], num_classes: int
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b k"]]:
        """The mixed pictures and the shares of the classes in them; drawn from torch's global CPU generator.

        Args:
            pixels: A batch; it is left as it is.
            labels: The class of each, or which classes hold.
            num_classes: K.

        Raises:
            UserError: The inputs are not pictures.
        """
        from torchvision.transforms import v2  # here, because classifiers of sound and text need no torchvision

        if pixels.ndim != 4:
            raise UserError(
                "model.mixing: only pictures and spectrograms can be mixed, not inputs of shape "
                f"{list(pixels.shape)}; set it to null"
            )
        mixed, switch = torch.rand(2).tolist()
        if mixed >= self.prob:
            return pixels, labels if labels.ndim > 1 else F.one_hot(labels, num_classes).float()
        if self.cutmix and (not self.mixup or switch < self.switch_prob):
            return v2.CutMix(alpha=self.cutmix, num_classes=num_classes)(pixels, labels)
        return v2.MixUp(alpha=self.mixup, num_classes=num_classes)(pixels, labels)


def hide_bands(spectrograms: Float[Tensor, "b 1 t f"], share: float) -> Float[Tensor, "b 1 t f"]:
    """Spectrograms with a span of frames and one of mel bins set to zero, each of up to a share of them (SpecAugment,
    arXiv 1904.08779); drawn from the global generator of their device.

    Raises:
        UserError: The inputs are not spectrograms.
    """
    if spectrograms.ndim != 4 or spectrograms.shape[1] != 1:
        raise UserError(
            f"model.spec_augment: inputs of shape {list(spectrograms.shape)} are no spectrograms; set it to 0"
        )
    from torchaudio.functional import mask_along_axis_iid

    for axis in (3, 2):
        spectrograms = mask_along_axis_iid(spectrograms, int(share * spectrograms.shape[axis]), 0.0, axis)
    return spectrograms


def _require_probabilities(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie between 0 and 1, not {value}")

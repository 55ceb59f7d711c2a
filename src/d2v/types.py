"""The values that travel between the parts of the method.

Dimension letters, here and in every file: B samples, M masks a sample, R = B*M rows (sample-major), N tokens of a
sample, V visible tokens, K masked tokens (V + K = N), C CLS tokens, T = C + N or C + V, D width, H heads, L blocks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


class OptimizerStep(NamedTuple):
    """What all devices read for an update, so that each sample or masked token weighs the same in all micro-batches.

    The gradient of an update is then the sum over all of them divided by their number, as in fairseq (``trainer.py``
    multiplies gradients by 1 / ``sample_size`` of all ranks); here each device knows that number beforehand. A sample
    that stands in for a broken one counts with the length of that one: the number may be a little off.
    """

    num_samples: int
    lengths: Int64[np.ndarray, "s"] | None
    """Values of each sample's input; None where all have the same."""
    micro_batches: int
    """What the sum of their gradients is divided by: devices x accumulation, also where an epoch ends within a step."""

    def weight(self, own: int | Tensor, total: int) -> float | Tensor:
        """Of a mean over ``own`` of all the ``total`` things that count; exactly 1 if each micro-batch has as many."""
        return own * self.micro_batches / total


class Batch(NamedTuple):
    """What a DataModule hands to a model. A named tuple, so that pinning and device moves need no code of ours."""

    inputs: Tensor
    """As the feature extractor wants it: pixels [B, 3, H, W], waveforms [B, samples], token ids [B, N]."""
    sample_ids: Int64[Tensor, "b"]
    """Stable id of each sample in its data set: the masks and the augmentation are keyed by it."""
    epochs: Int64[Tensor, "b"]
    """How often the sample's data set had been passed through before; a batch may straddle two epochs."""
    labels: Tensor | None = None
    """What is known about each sample: its class, int64 [B]; letters, int64 [B, S], padded with -100; or which classes
    hold, float32 [B, classes]. None where nothing is."""
    padding_mask: Bool[Tensor, "b _"] | None = None
    """True = padding, at the rate of ``inputs``; None when nothing is padded."""
    step: OptimizerStep | None = None
    """Whose micro-batch it is, in training; None where that is not known: then all micro-batches weigh the same."""
    masked: Bool[Tensor, "r n"] | None = None
    """Masks of pictures that were drawn where the batch was loaded; None: the model draws them."""

    @property
    def sample_weight(self) -> float:
        """Of a mean over the samples; see :class:`OptimizerStep`."""
        if self.step is None:
            return 1.0
        return float(self.step.weight(len(self.inputs), self.step.num_samples))


class Rows(NamedTuple):
    """Of a table that `d2v test` and `d2v predict` write: what a module says about the samples of a batch."""

    sample_ids: Int64[Tensor, "b"]
    """The command puts the samples' names in their place."""
    columns: tuple[str, ...]
    values: Sequence[tuple[str, ...]]
    """A text for each column, a tuple a sample; tabs and line breaks in them become spaces."""
    notes: Sequence[str] = ()
    """What is unusual about each sample, empty where nothing is; none: about no sample."""


def by_encoder(batches: "Batch | Mapping[str, Batch]") -> "Mapping[str, Batch]":
    """Batches by the name of the encoder that reads them; the only encoder of a method is called ``""``."""
    return {"": batches} if isinstance(batches, Batch) else batches


@dataclass(frozen=True)
class TokenSequence:
    """Output of a feature extractor: one vector a token, before positions."""

    tokens: Float[Tensor, "b n d"]
    grid: tuple[int, ...]
    """Shape of the positions, ``prod(grid) == n``: (rows, columns) of patches, or (frames,)."""
    padding_mask: Bool[Tensor, "b n"] | None = None
    """True = padding, at the rate of the tokens."""
    vocabulary: Float[Tensor, "v d"] | None = None
    """Where tokens are of a vocabulary: the vector of each of its types, which may stand in place of a masked token."""

    def detach(self) -> "TokenSequence":
        """For who encodes without a mask."""
        return TokenSequence(self.tokens.detach(), self.grid, self.padding_mask)


@dataclass(frozen=True)
class Mask:
    """Which tokens the student must predict, in R = B*M rows (sample-major).

    Without padding every row of a :class:`Masking` of ours has the same number K of masked tokens. A padded row, or a
    dense mask from elsewhere, may have fewer; its other entries of ``masked_index`` are then not ``scored``.
    """

    masked: Bool[Tensor, "r n"]
    visible_index: Int64[Tensor, "r v"]
    """Positions of the visible tokens, ascending."""
    masked_index: Int64[Tensor, "r k"]
    """Positions of the masked tokens, ascending."""
    num_masks: int
    """M, the number of rows a sample."""
    scored: Bool[Tensor, "r k"] | None = None
    """Which entries of ``masked_index`` enter the loss; None: all."""
    padding: Bool[Tensor, "r n"] | None = None
    """True = padding; None: there is none."""
    keys: Int64[Tensor, "r"] | None = None
    """Key of each row's randomness, for what is drawn beside the mask; None in a mask from elsewhere."""

    @classmethod
    def from_dense(
        cls,
        masked: Bool[Tensor, "r n"],
        num_masked: int,
        num_masks: int = 1,
        equal_counts: bool = True,
        padding: Bool[Tensor, "r n"] | None = None,
        keys: Int64[Tensor, "r"] | None = None,
    ) -> "Mask":
        """Index a dense mask. ``num_masked`` (K, the largest count) is passed in: nothing waits for the device."""
        order = masked.to(torch.int8).argsort(dim=1, stable=True)  # visible first, each group ascending
        num_visible = masked.shape[1] - num_masked
        masked_index = order[:, num_visible:]
        scored = None if equal_counts else masked.gather(1, masked_index)
        return cls(masked, order[:, :num_visible], masked_index, num_masks, scored, padding, keys)

    @property
    def num_scored(self) -> int | Tensor:
        """Masked tokens that enter the loss; a tensor on its device where rows have fewer than K."""
        return self.masked_index.numel() if self.scored is None else self.scored.sum()

    @property
    def restore_index(self) -> Int64[Tensor, "r n"]:
        """Where position n stands in ``cat([visible, masked], dim=1)``."""
        return torch.cat([self.visible_index, self.masked_index], dim=1).argsort(dim=1)


@dataclass(frozen=True)
class EncoderOutput:
    """What an encoder returns. Positions are all N tokens, or the V visible ones if masked tokens were dropped."""

    tokens: Float[Tensor, "b n d"]
    """Final representation of each token, after the last norm, without CLS."""
    layers: tuple[Float[Tensor, "b n d"], ...]
    """End of each block (prenet blocks left out), without CLS."""
    ffn_outputs: tuple[Float[Tensor, "b n d"], ...]
    """Feed-forward output of each block before the residual: the usual source of targets."""
    cls: Float[Tensor, "b c d"] | None = None
    """CLS tokens, if the encoder has any."""
    padding_mask: Bool[Tensor, "b n"] | None = None
    """True = padding, at the rate of ``tokens``."""

    @property
    def mean_cls(self) -> Float[Tensor, "b d"]:
        """The CLS token; of several their mean, which emotion2vec's loss trains."""
        assert self.cls is not None
        return self.cls.mean(dim=1)


@dataclass(frozen=True)
class Data2VecOutput:
    """One training step's loss and what is worth logging about it."""

    loss: Float[Tensor, ""]
    """Weighted by the micro-batch's part of the optimizer step (:class:`OptimizerStep`); the others are plain means."""
    regression_loss: Float[Tensor, ""]
    cls_loss: Float[Tensor, ""] | None
    predictions: Float[Tensor, "r k d"]
    targets: Float[Tensor, "r k d"]
    mask: Mask
    features: TokenSequence
    """Output of the student's feature extractor, whose effective rank shows a slow collapse first."""

"""Which tokens the student must predict.

Masks are made for the whole batch at once, on its device, without a Python loop over samples and without waiting for
the device. Every row of N tokens has exactly the same number of masked ones. Each row's randomness comes from its own
key, so a sample's mask depends on its length and (seed, epoch, sample id, mask index) and on nothing else: neither on
who shares the batch nor on how much padding that brings.
"""

import math
from abc import abstractmethod
from typing import ClassVar, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from d2v.errors import UserError
from d2v.model.random_spans import RandomSpans, require_shared_by
from d2v.model.randomness import combine_keys, keyed_uniform, with_exact_count
from d2v.types import Batch, Mask

Count = TypeVar("Count", int, Tensor, np.ndarray)


class Masking(nn.Module):
    """Samples masks."""

    dimensions: ClassVar[int | None] = None
    """Of the grids that it masks: 1 of sequences, 2 of pictures; None: any."""
    drawn_early: ClassVar[bool] = False
    """Whether it is better drawn where batches are loaded, because it takes thousands of small operations."""

    def require_room(self, grid: tuple[int, ...]) -> None:
        """Refuse a grid on which it would mask something else than it says.

        Raises:
            UserError: A block is larger than the grid.
        """

    def forward(
        self,
        batch: Batch,
        grid: tuple[int, ...],
        num_masks: int,
        seed: int,
        padding_mask: Bool[Tensor, "b n"] | None = None,
    ) -> Mask:
        """Sample ``num_masks`` masks a sample: rows R = B*M, the masks of one sample next to each other."""
        keys = keys_of(batch, num_masks, seed)
        if padding_mask is None:
            masked = batch.masked
            if masked is None:
                masked = self.sample(keys, grid)
            return Mask.from_dense(masked, self.num_masked(grid), num_masks, keys=keys)
        padding = padding_mask.repeat_interleave(num_masks, dim=0)
        masked = self.sample(keys, grid, (~padding).sum(dim=1))
        return Mask.from_dense(masked, self.num_masked(grid), num_masks, False, padding, keys)

    @abstractmethod
    def sample(
        self, keys: Int64[Tensor, "r"], grid: tuple[int, ...], num_valid: Int64[Tensor, "r"] | None = None
    ) -> Bool[Tensor, "r n"]:
        """One mask a key, each with exactly ``num_masked(grid)`` tokens.

        Of a row whose first ``num_valid`` tokens alone are no padding, those are masked as if it had no others.
        Pictures have no padding.
        """

    @abstractmethod
    def num_masked(self, grid: tuple[int, ...]) -> int:
        """K, the same in every row."""

    def count(self, num_tokens: np.ndarray) -> np.ndarray:
        """How many are masked of sequences of so many tokens, none of them padding; a function of the length alone."""
        return np.array([self.num_masked((length,)) for length in num_tokens.tolist()])


def keys_of(batch: Batch, num_masks: int, seed: int) -> Int64[Tensor, "r"]:
    """Keys of the masks of each sample, R = B*M: hashes of (seed, epoch, sample id, mask index)."""
    index = torch.arange(num_masks, device=batch.sample_ids.device)
    return combine_keys(seed, batch.epochs[:, None], batch.sample_ids[:, None], index).flatten()


class RandomMasking(Masking):
    """Masks single tokens anywhere in a sequence (2.0 text: fairseq ``random_masking``; BERT).

    Of N tokens that are no padding ``int((1 - mask_ratio) * N)`` are kept, but neither none nor all.

    Args:
        mask_ratio: Share of the tokens that is masked.
    """

    def __init__(self, mask_ratio: float = 0.48) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie between 0 and 1, not {mask_ratio}")
        self.mask_ratio = mask_ratio

    def num_masked(self, grid: tuple[int, ...]) -> int:
        return self.count(math.prod(grid))

    def count(self, num_tokens: Count) -> Count:
        return _some(num_tokens - _share(num_tokens, 1 - self.mask_ratio), num_tokens)

    def sample(
        self, keys: Int64[Tensor, "r"], grid: tuple[int, ...], num_valid: Int64[Tensor, "r"] | None = None
    ) -> Bool[Tensor, "r n"]:
        nothing = torch.zeros(len(keys), math.prod(grid), dtype=torch.bool, device=keys.device)
        if num_valid is None:
            return with_exact_count(nothing, self.num_masked(grid), keys)
        return with_exact_count(nothing, self.count(num_valid), keys, num_valid)


class SpanMasking(Masking):
    """Masks random spans of a sequence (2.0: fairseq ``compute_block_mask_1d``).

    As many spans are drawn as would mask ``mask_ratio + adjust`` without overlaps; they overlap, and random tokens are
    then added or removed until exactly ``int(mask_ratio * N)`` are masked, but neither none nor all, N being the tokens
    that are no padding.
    Centres lie anywhere, with repetition, and spans are cut at the ends.

    fairseq makes a mask before a clip is cropped, which then shows some masked frames to the student.

    Args:
        mask_ratio: Share of the tokens that is masked.
        span: Tokens of a span.
        adjust: Added to the share when the number of spans is computed, because they overlap.
    """

    dimensions = 1

    def __init__(self, mask_ratio: float = 0.5, span: int = 5, adjust: float = 0.05) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie between 0 and 1, not {mask_ratio}")
        if span < 1:
            raise ValueError(f"span must be at least 1 token, not {span}")
        self.mask_ratio = mask_ratio
        self.span = span
        self.adjust = adjust

    def count(self, num_tokens: Count) -> Count:
        return _some(_share(num_tokens, self.mask_ratio), num_tokens)

    def num_masked(self, grid: tuple[int, ...]) -> int:
        masked = self.count(math.prod(grid))
        if masked == 0:
            raise ValueError(f"mask_ratio {self.mask_ratio} masks nothing of {math.prod(grid)} tokens: too short")
        return masked

    def sample(
        self, keys: Int64[Tensor, "r"], grid: tuple[int, ...], num_valid: Int64[Tensor, "r"] | None = None
    ) -> Bool[Tensor, "r n"]:
        num_tokens = math.prod(grid)
        if num_valid is None:
            num_valid = torch.full_like(keys, num_tokens)
        length = num_valid[:, None]  # [R, 1]
        drawn = _share(length, self.mask_ratio + self.adjust) // self.span
        most = _share(num_tokens, self.mask_ratio + self.adjust) // self.span
        centres = (keyed_uniform(keys, most, stream=1) * length).long()
        used = torch.arange(most, device=keys.device) < drawn
        starts = torch.zeros(len(keys), num_tokens + 1, dtype=torch.bool, device=keys.device)
        starts = starts.scatter_(1, torch.where(used, centres, num_tokens), True)[:, :num_tokens]
        after = self.span // 2  # of an even span the centre is the right of the two in the middle, as in fairseq
        # A span around each centre is a dilation: the maximum over a window.
        padded = F.pad(starts.float()[:, None], (self.span - 1 - after, after))
        masked = F.max_pool1d(padded, self.span, stride=1)[:, 0] > 0
        return with_exact_count(masked, self.count(num_valid), keys, num_valid)


class RandomSpanMasking(Masking):
    """Masks whole spans from random starts; the share follows from how they overlap (1.0: ``compute_mask_indices``).

    How many tokens are masked is a function of the length: see :meth:`RandomSpans.counts`.

    Args:
        mask_prob: Share of the tokens that the spans would mask without overlaps.
        span: Tokens of a span.
        shared_by: Speech: tokens of a batch, in which fairseq masks as many of each row as of the one with fewest, by
            uncovering random ones; null (text): what the spans cover on average, and the last one is cut.
        inside: Spans end before the last token (speech); false (text): they start anywhere and are cut at the end.
    """

    dimensions = 1

    def __init__(
        self, mask_prob: float = 0.65, span: int = 10, shared_by: int | None = None, inside: bool = True
    ) -> None:
        super().__init__()
        if span < 1:
            raise ValueError(f"span must be at least 1 token, not {span}")
        if not 0 < mask_prob <= span:
            raise ValueError(f"mask_prob must lie between 0 and {span}, the span, not {mask_prob}")
        require_shared_by(shared_by)
        self.spans = RandomSpans(mask_prob, span, inside)
        self.span = span
        self.shared_by = shared_by

    def count(self, num_tokens: int | np.ndarray) -> np.ndarray:
        return np.asarray(self.spans.counts(int(np.max(num_tokens)), self.shared_by).numpy()[num_tokens])

    def num_masked(self, grid: tuple[int, ...]) -> int:
        masked = int(self.count(math.prod(grid)))
        if masked == 0:
            raise ValueError(f"{math.prod(grid)} token is too short to be masked")
        return masked

    def sample(
        self, keys: Int64[Tensor, "r"], grid: tuple[int, ...], num_valid: Int64[Tensor, "r"] | None = None
    ) -> Bool[Tensor, "r n"]:
        num_tokens = math.prod(grid)
        if num_valid is None:
            num_valid = torch.full_like(keys, num_tokens)
        counts = self.spans.counts(num_tokens, self.shared_by, device=keys.device)[num_valid]
        return self.spans.draw(keys, num_valid, num_tokens, counts, uncover=self.shared_by is not None)


def _share(count: Count, ratio: float) -> Count:
    """``int(count * ratio)`` in whole numbers, the ratio taken to six decimals: the same on every device.

    In fp32 a product could fall on the other side of a whole number, and Apple's GPUs have no fp64.
    """
    return count * round(ratio * 1_000_000) // 1_000_000


def _some(masked: Count, num_tokens: Count) -> Count:
    """At least one is masked and one is left of two tokens and more: a single short clip must not end a run."""
    if isinstance(masked, int):
        return max(0, min(max(1, masked), num_tokens - 1))
    return masked.clip(1).clip(max=num_tokens - 1).clip(0)


class InverseBlockMasking(Masking):
    """Keeps random square blocks and masks everything else (2.0, section 3.4; fairseq ``compute_block_mask_2d``).

    Centres are drawn with repetition, blocks are cut at the border, then random tokens are added or removed until
    exactly ``int((1 - mask_ratio) * N)`` are kept.

    Args:
        mask_ratio: Share of the tokens that is masked.
        block_size: Side of a kept block in patches.
        adjust: Added to the kept share when the number of blocks is computed, because blocks overlap.
    """

    dimensions = 2

    def __init__(self, mask_ratio: float = 0.8, block_size: int = 3, adjust: float = 0.07) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie between 0 and 1, not {mask_ratio}")
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1 patch, not {block_size}")
        self.mask_ratio = mask_ratio
        self.block_size = block_size
        self.adjust = adjust

    def require_room(self, grid: tuple[int, ...]) -> None:
        if self.block_size > min(grid):
            sides = " x ".join(map(str, grid))
            raise UserError(
                f"model.masking.block_size is {self.block_size}, and an input has {sides} patches: set it to at most "
                f"{min(grid)}"
            )

    def num_masked(self, grid: tuple[int, ...]) -> int:
        kept = int(math.prod(grid) * (1 - self.mask_ratio))
        if kept == 0:
            raise ValueError(f"mask_ratio {self.mask_ratio} leaves nothing to see of {math.prod(grid)} patches")
        return math.prod(grid) - kept

    def sample(
        self, keys: Int64[Tensor, "r"], grid: tuple[int, ...], num_valid: Int64[Tensor, "r"] | None = None
    ) -> Bool[Tensor, "r n"]:
        num_tokens = math.prod(grid)
        num_blocks = int(num_tokens * (1 - self.mask_ratio + self.adjust) / self.block_size**2)
        centres = (keyed_uniform(keys, num_blocks, stream=1) * num_tokens).long()
        seeds = torch.zeros(len(keys), num_tokens, device=keys.device).scatter_(1, centres, 1.0)
        # A block around each centre is a dilation: the maximum over a window.
        before = (self.block_size - 1) // 2  # of an even block the centre is the left upper of the four in the middle
        after = self.block_size - 1 - before
        padded = F.pad(seeds.view(-1, 1, *grid), (before, after, before, after))
        kept = F.max_pool2d(padded, self.block_size, stride=1).flatten(1) > 0
        return ~with_exact_count(kept, num_tokens - self.num_masked(grid), keys)


class BlockMasking(Masking):
    """Masks random rectangles until enough patches are masked (BEiT, algorithm 1; 1.0 vision).

    A rectangle's area is uniform between ``min_block`` and what is still missing (at most ``max_block``), its aspect
    ratio log-uniform; it counts if it adds at least one patch and not more than are missing. After ten misses in a
    row BEiT gives up with fewer patches than asked; here random patches then fill the exact count.

    Args:
        num_patches: Patches to mask on the grid that the recipe is made for.
        grid: That grid; on another the same share is masked.
        min_block: Least area of a rectangle in patches.
        max_block: Largest area; None: no bound but what is missing.
        min_aspect: Least height over width; the largest is its inverse.
    """

    dimensions = 2
    drawn_early = True
    MISSES = 10  # BEiT's MaskingGenerator._mask tries so often before it gives up
    # A fixed number needs no look at the device. Of 15,000 samples of BEiT's rule none needed more than 53 (14 x 14).
    PROPOSALS = 96

    def __init__(
        self,
        num_patches: int = 120,
        grid: tuple[int, int] = (14, 14),
        min_block: int = 16,
        max_block: int | None = None,
        min_aspect: float = 0.3,
    ) -> None:
        super().__init__()
        if not 0 < num_patches < math.prod(grid):
            raise ValueError(f"num_patches must lie between 0 and {math.prod(grid)} (grid {grid}), not {num_patches}")
        if not 0 < min_aspect <= 1:
            raise ValueError(f"min_aspect must lie between 0 and 1, not {min_aspect}")
        self.mask_ratio = num_patches / math.prod(grid)
        self.min_block = min_block
        self.max_block = max_block
        self.min_aspect = min_aspect

    def require_room(self, grid: tuple[int, ...]) -> None:
        most = self.num_masked(grid)
        if self.max_block is not None:
            most = min(most, self.max_block)
        if self.min_block > most:
            raise UserError(
                f"model.masking.min_block is {self.min_block}, and no rectangle may have more than {most} patches, "
                f"because {self.num_masked(grid)} are masked or max_block says so: set it to at most {most}"
            )

    def num_masked(self, grid: tuple[int, ...]) -> int:
        masked = round(self.mask_ratio * math.prod(grid))
        if not 0 < masked < math.prod(grid):
            raise ValueError(
                f"num_patches: the share {self.mask_ratio:.3g} masks {masked} of {math.prod(grid)} patches"
            )
        return masked

    def sample(
        self, keys: Int64[Tensor, "r"], grid: tuple[int, ...], num_valid: Int64[Tensor, "r"] | None = None
    ) -> Bool[Tensor, "r n"]:
        rows, columns = grid
        goal = self.num_masked(grid)
        area_u, aspect_u, top_u, left_u = keyed_uniform(keys, 4 * self.PROPOSALS, stream=1).chunk(4, dim=1)
        aspect = torch.exp((2 * aspect_u - 1) * -math.log(self.min_aspect))  # log-uniform in min_aspect..1/min_aspect
        y = torch.arange(rows, device=keys.device)
        x = torch.arange(columns, device=keys.device)
        masked = torch.zeros(len(keys), rows, columns, dtype=torch.bool, device=keys.device)
        count = torch.zeros(len(keys), device=keys.device)
        misses = torch.zeros_like(count)
        for i in range(self.PROPOSALS):  # one proposal a row and turn, all rows together
            missing = goal - count
            largest = missing if self.max_block is None else missing.clamp(max=self.max_block)
            area = self.min_block + area_u[:, i] * (largest - self.min_block)
            height = (area * aspect[:, i]).sqrt().round()
            width = (area / aspect[:, i]).sqrt().round()
            fits = (height < rows) & (width < columns)  # strictly, as in BEiT
            top = (top_u[:, i] * (rows - height + 1)).floor()
            left = (left_u[:, i] * (columns - width + 1)).floor()
            in_rows = (y >= top[:, None]) & (y < (top + height)[:, None])
            in_columns = (x >= left[:, None]) & (x < (left + width)[:, None])
            new = in_rows[:, :, None] & in_columns[:, None, :] & ~masked
            added = new.sum(dim=(1, 2))
            accepted = fits & (added > 0) & (added <= largest) & (misses < self.MISSES)
            masked |= new & accepted[:, None, None]
            count += added * accepted
            misses = torch.where(accepted, 0.0, misses + 1)
        return with_exact_count(masked.flatten(1), goal, keys)

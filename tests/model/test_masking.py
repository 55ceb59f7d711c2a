"""Masks: exact counts, randomness that is a function of the sample's key, and BEiT's statistics."""

import math
import random

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from d2v.model import masking as masking_file
from d2v.model.masking import BlockMasking, InverseBlockMasking, Masking
from d2v.model.randomness import combine_keys, keyed_uniform
from d2v.types import Batch

GRID = (14, 14)
KINDS = [InverseBlockMasking(), BlockMasking()]


def batch_of(ids: list[int], epochs: list[int] | int = 0) -> Batch:
    epochs = [epochs] * len(ids) if isinstance(epochs, int) else epochs
    return Batch(torch.empty(len(ids), 0), torch.tensor(ids), torch.tensor(epochs))


def masks(masking: Masking, ids: list[int], epoch: int = 0, num_masks: int = 1, seed: int = 0) -> Tensor:
    """[B, M, N]"""
    return masking(batch_of(ids, epoch), GRID, num_masks, seed).masked.unflatten(0, (len(ids), num_masks))


# Counts


grids = st.tuples(st.integers(2, 12), st.integers(2, 12))


@settings(max_examples=60, deadline=None)
@given(grids, st.floats(0.05, 0.95), st.integers(1, 6), st.floats(0, 0.3), st.integers(0, 2**40))
@example((14, 14), 0.8, 3, 0.07, 0)  # 2.0 Base: 39 of 196 are kept
@example((2, 12), 0.5, 6, 0.3, 3)  # blocks taller than the grid
def test_inverse_block_masking_has_exactly_its_count_in_every_row(grid, ratio, block_size, adjust, key):
    num_tokens = math.prod(grid)
    kept = int(num_tokens * (1 - ratio))
    assume(kept > 0)
    masking = InverseBlockMasking(ratio, block_size, adjust)
    masked = masking.sample(torch.arange(key, key + 32), grid)
    assert masked.shape == (32, num_tokens)
    assert masked.sum(dim=1).tolist() == [num_tokens - kept] * 32


@settings(max_examples=40, deadline=None)
@given(grids, st.floats(0.05, 0.95), st.integers(1, 30), st.integers(1, 200), st.floats(0.05, 1), st.integers(0, 2**40))
@example((14, 14), 120 / 196, 16, 196, 0.3, 0)  # 1.0 Base
def test_block_masking_has_exactly_its_count_in_every_row(grid, ratio, min_block, max_block, min_aspect, key):
    num_patches = round(ratio * math.prod(grid))
    assume(0 < num_patches < math.prod(grid))
    masking = BlockMasking(num_patches, grid, min_block, max_block, min_aspect)
    masked = masking.sample(torch.arange(key, key + 16), grid)
    assert masked.sum(dim=1).tolist() == [num_patches] * 16


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_indices_agree_with_the_dense_mask(kind):
    mask = kind(batch_of([5, 2]), GRID, 3, 0)
    assert mask.masked_index.shape == (6, kind.num_masked(GRID))
    assert mask.num_masks == 3
    assert mask.scored is None
    for row, visible, masked in zip(mask.masked, mask.visible_index, mask.masked_index, strict=True):
        assert masked.tolist() == row.nonzero().flatten().tolist()
        assert visible.tolist() == (~row).nonzero().flatten().tolist()
    joined = torch.cat([mask.visible_index, mask.masked_index], dim=1)
    assert torch.equal(joined.gather(1, mask.restore_index), torch.arange(196).expand(6, -1))


def test_a_mask_that_leaves_nothing_to_see_or_to_predict_is_refused():
    with pytest.raises(ValueError, match="leaves nothing to see of 4 patches"):
        InverseBlockMasking(0.9).num_masked((2, 2))
    with pytest.raises(ValueError, match="0 of 4 patches"):
        BlockMasking(10, (14, 14)).num_masked((2, 2))
    with pytest.raises(ValueError, match="4 of 4 patches"):
        BlockMasking(190, (14, 14)).num_masked((2, 2))
    with pytest.raises(ValueError, match="mask_ratio"):
        InverseBlockMasking(1.0)
    with pytest.raises(ValueError, match="num_patches"):
        BlockMasking(196, (14, 14))


# Keys


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_a_samples_mask_depends_on_its_key_alone(kind):
    alone = masks(kind, [7], num_masks=1)[0, 0]
    assert torch.equal(alone, masks(kind, [7])[0, 0])
    assert torch.equal(alone, masks(kind, [3, 9, 7, 1])[2, 0]), "it must not depend on the others of the batch"
    assert torch.equal(alone, masks(kind, [7, 3], num_masks=4)[0, 0]), "nor on the number of masks"
    torch.manual_seed(1)
    assert torch.equal(alone, masks(kind, [7])[0, 0]), "nor on the global generator"
    mixed = kind(batch_of([7, 7], [1, 0]), GRID, 1, 0).masked
    assert torch.equal(mixed[1], alone)
    assert torch.equal(mixed[0], masks(kind, [7], epoch=1)[0, 0])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_another_sample_epoch_seed_or_mask_index_gives_another_mask(kind):
    both = masks(kind, [7, 8], num_masks=4)
    others = [both[0, 1], both[0, 2], both[0, 3], both[1, 0]]
    others += [masks(kind, [7], epoch=1)[0, 0], masks(kind, [7], seed=1)[0, 0]]
    # Mask 1 of (seed 0, epoch 0) must not be mask 0 of another epoch or sample either.
    rows = torch.stack([both[0, 0], *others, masks(kind, [0], epoch=7)[0, 0], masks(kind, [1], epoch=7)[0, 0]])
    agreement = (rows[:, None] == rows[None]).float().mean(dim=-1) - torch.eye(len(rows))
    assert agreement.max() < 0.95


def test_ids_of_a_large_data_set_do_not_collide():
    ids = torch.arange(200_000)
    keys = combine_keys(0, (ids % 7)[:, None], ids[:, None], torch.arange(4))
    assert len(keys.unique()) == keys.numel()
    assert combine_keys(1, 2) != combine_keys(2, 1), "the order counts"
    assert combine_keys(0, 1) != combine_keys(1), "and so does a zero"


def test_keyed_uniform_is_uniform_and_independent():
    u = keyed_uniform(combine_keys(0, torch.arange(2000)), 64).double()  # 128,000 numbers: deterministic, no flakes
    n = u.numel()
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * (1 / 12 / n) ** 0.5
    assert abs(u.var() - 1 / 12) < 4 * (1 / 180 / n) ** 0.5
    counts = torch.histc(u, bins=128, min=0, max=1)
    chi_square = ((counts - n / 128) ** 2 / (n / 128)).sum()  # 127 degrees of freedom: 127 +- 16
    assert 70 < chi_square < 190
    neighbours = {
        "counters of a key": (u[:, 1:], u[:, :-1]),
        "keys side by side": (u[1:], u[:-1]),
        "streams": (u, keyed_uniform(combine_keys(0, torch.arange(2000)), 64, stream=1).double()),
        "a key and its next stream's key": (u[1:], keyed_uniform(combine_keys(0, torch.arange(1999)), 64, 1).double()),
    }
    for name, (a, b) in neighbours.items():
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 4 / n**0.5, name
    cells = torch.histogramdd(
        torch.stack([u[:, ::2].flatten(), u[:, 1::2].flatten()], 1), [16, 16], [0.0, 1, 0, 1]
    ).hist
    expected = n / 2 / 256
    assert 170 < ((cells - expected) ** 2 / expected).sum() < 345  # 255 degrees of freedom: 255 +- 23


def test_keyed_uniform_of_raw_small_keys_differs_in_half_of_the_bits():
    bits = (keyed_uniform(torch.arange(512), 8) * 2**24).long()
    flipped = torch.stack([(bits[1:] ^ bits[:-1]) >> i & 1 for i in range(24)]).float().mean(dim=(1, 2))
    assert (flipped - 0.5).abs().max() < 0.04


# Statistics


def masked_neighbours(masked: Tensor) -> float:
    """Mean number of masked 4-neighbours of a masked patch, [rows, h, w]."""
    m = torch.nn.functional.pad(masked.float(), (1, 1, 1, 1))
    around = m[:, 2:, 1:-1] + m[:, :-2, 1:-1] + m[:, 1:-1, 2:] + m[:, 1:-1, :-2]
    return float((around * masked).sum() / masked.sum())


@pytest.mark.parametrize(
    ("ratio", "adjust", "neighbours", "corner", "centre_column"),
    # fairseq 3d262bb, 4,000 samples of compute_block_mask_2d with the Base and Large settings.
    [(0.8, 0.07, 2.5342, 0.8870, 0.8447), (0.75, 0.1, 2.5751, 0.8580, 0.8137)],
)
def test_inverse_block_masking_has_fairseqs_statistics(ratio, adjust, neighbours, corner, centre_column):
    masked = InverseBlockMasking(ratio, 3, adjust).sample(torch.arange(4000), GRID).view(-1, *GRID)
    assert masked_neighbours(~masked) == pytest.approx(neighbours, abs=0.02)
    frequency = masked.float().mean(dim=0)
    corners = torch.stack([frequency[0, 0], frequency[0, -1], frequency[-1, 0], frequency[-1, -1]])
    assert float(corners.mean()) == pytest.approx(corner, abs=0.015)
    assert float(frequency[0, 5:9].mean()) == pytest.approx(centre_column, abs=0.015)


def beit_masks(
    num_samples: int, goal: int = 120, min_block: int = 16, max_block: int = 196, grid: tuple[int, int] = GRID
) -> tuple[Tensor, list[int]]:
    """BEiT, algorithm 1, one sample, block and attempt after the other; also the proposals that each sample took."""
    rng = random.Random(0)
    height, width = grid
    aspects = (math.log(0.3), math.log(1 / 0.3))
    result, proposals = torch.zeros(num_samples, *grid, dtype=torch.bool), []
    for mask in result.numpy():
        count = tried = 0
        while count < goal:
            missing = min(goal - count, max_block)
            added = 0
            for _ in range(10):
                tried += 1
                area = rng.uniform(min_block, missing)
                aspect = math.exp(rng.uniform(*aspects))
                h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
                if w >= width or h >= height:
                    continue
                top, left = rng.randint(0, height - h), rng.randint(0, width - w)  # both ends included
                block = mask[top : top + h, left : left + w]
                new = h * w - int(block.sum())
                if 0 < new <= missing:
                    block[:] = True
                    added = new
                    break
            if added == 0:
                break
            count += added
        proposals.append(tried)
    return result, proposals


@pytest.fixture(scope="module")
def beit() -> tuple[Tensor, list[int]]:
    return beit_masks(1500)


def our_rectangles(masking: BlockMasking, grid: tuple[int, int]) -> Tensor:
    """1,500 masks before random patches fill the exact count, [1500, h, w]."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking_file, "with_exact_count", lambda chosen, *_: chosen)
        return masking.sample(combine_keys(0, torch.arange(1500)), grid).view(-1, *grid)


@pytest.fixture(scope="module")
def before_top_up() -> Tensor:
    return our_rectangles(BlockMasking(120, GRID, 16, 196), GRID)


def test_block_masking_has_beits_statistics(beit, before_top_up):
    theirs, _ = beit
    counts, their_counts = (masked.sum(dim=(1, 2)) for masked in (before_top_up, theirs))
    assert counts.max() <= 120
    # Two samples of 1,500: the 1% point of Kolmogorov-Smirnov is 1.63 * sqrt(2 / 1500) = 0.06.
    thresholds = torch.arange(80, 121)
    cumulative = [(c[:, None] <= thresholds).float().mean(dim=0) for c in (counts, their_counts)]
    assert (cumulative[0] - cumulative[1]).abs().max() < 0.06
    assert float(counts.float().mean()) == pytest.approx(float(their_counts.float().mean()), abs=0.6)
    assert masked_neighbours(before_top_up) == pytest.approx(masked_neighbours(theirs), abs=0.02)
    frequency, their_frequency = before_top_up.float().mean(dim=0), theirs.float().mean(dim=0)
    # A frequency of 0.6 from 1,500 samples is known to 0.013, a difference of two to 0.018; 196 of them are compared.
    assert (frequency - their_frequency).abs().max() < 0.07
    assert ((frequency - their_frequency) ** 2).mean().sqrt() < 0.025
    # The sides, where an off-by-one of the place would show first.
    for side in ((0, slice(None)), (-1, slice(None)), (slice(None), 0), (slice(None), -1)):
        assert float(frequency[side].mean()) == pytest.approx(float(their_frequency[side].mean()), abs=0.035)


def test_no_rectangle_is_as_high_or_wide_as_the_grid():
    """BEiT asks for less; on a flat grid, and with a bound on the area, that shows."""
    grid, goal, max_block = (4, 12), 20, 10
    theirs, _ = beit_masks(1500, goal, 4, max_block, grid)
    ours = our_rectangles(BlockMasking(goal, grid, 4, max_block), grid)
    full_columns, their_full_columns = (float(m.all(dim=1).sum(dim=1).float().mean()) for m in (ours, theirs))
    assert full_columns == pytest.approx(their_full_columns, abs=0.12)
    assert masked_neighbours(ours) == pytest.approx(masked_neighbours(theirs), abs=0.04)


def test_the_fixed_number_of_proposals_is_enough(beit, before_top_up):
    theirs, proposals = beit
    cut_short = sum(tried > BlockMasking.PROPOSALS for tried in proposals) / len(proposals)
    print(f"proposals: max {max(proposals)}, longer than {BlockMasking.PROPOSALS}: {cut_short:.2%}")
    assert cut_short < 0.002
    reached, they_reached = ((m.sum(dim=(1, 2)) == 120).float().mean() for m in (before_top_up, theirs))
    assert float(reached) == pytest.approx(float(they_reached), abs=0.05)

"""Against the official code: position tables, and statistics of inverse block masks (misc.pt of the fixtures)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from d2v.model.masking import InverseBlockMasking
from d2v.model.randomness import combine_keys
from d2v.nn.positional import sincos_table_2d

MISC = Path(__file__).parents[2].parent / "shared" / "reference" / "fixtures" / "misc.pt"
NUM_MASKS = 4000

pytestmark = pytest.mark.skipif(not MISC.is_file(), reason=f"no reference fixtures in {MISC.parent}")


@pytest.fixture(scope="module")
def misc() -> dict[str, Any]:
    return torch.load(MISC, weights_only=True)


@pytest.mark.parametrize(("width", "side"), [(32, 6), (768, 14)])
def test_sincos_table(misc: dict[str, Any], width: int, side: int) -> None:
    torch.testing.assert_close(sincos_table_2d((side, side), width), misc["sincos_2d"][f"{width}x{side}"])


def kept_neighbours(kept: Tensor) -> float:
    """Mean number of kept 4-neighbours of a kept patch; ``kept`` [R, rows, columns]."""
    pairs = (kept[:, 1:] & kept[:, :-1]).sum() + (kept[:, :, 1:] & kept[:, :, :-1]).sum()
    return (2 * pairs / kept.sum()).item()


@pytest.mark.parametrize(("name", "num_masked"), [("image_base 14x14", 157), ("image_large 14x14", 147)])
def test_inverse_block_masks_look_like_the_official_ones(misc: dict[str, Any], name: str, num_masked: int) -> None:
    official = misc["block_mask_statistics"][name]
    settings = official["kwargs"]
    masking = InverseBlockMasking(settings["mask_prob"], settings["mask_length"], settings["mask_prob_adjust"])
    masked = masking.sample(combine_keys(7, torch.arange(NUM_MASKS)), (14, 14))

    assert masking.num_masked((14, 14)) == num_masked == official["masked_per_row_min_max"][0]
    assert (masked.sum(dim=1) == num_masked).all()

    # A position's frequency over R masks has the deviation sqrt(p (1 - p) / R); the fixture counted 4000 masks too.
    frequency = masked.float().mean(dim=0).view(14, 14)
    expected = official["position_frequency"]
    deviation = (expected * (1 - expected) * 2 / NUM_MASKS).sqrt()
    assert ((frequency - expected).abs() <= 4.5 * deviation).all()

    neighbours = kept_neighbours(~masked.view(-1, 14, 14))
    assert neighbours == pytest.approx(official["mean_number_of_kept_4neighbours_of_a_kept_patch"], abs=0.02)

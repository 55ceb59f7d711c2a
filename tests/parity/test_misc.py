"""Against the official code: tables of positions, lengths, and statistics of masks (misc.pt of the fixtures)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from d2v.model.masking import InverseBlockMasking, SpanMasking
from d2v.model.random_spans import RandomSpans
from d2v.model.randomness import combine_keys
from d2v.nn.feature_extractor import ConvFeatureExtractor
from d2v.nn.positional import ALiBi, sincos_table_2d

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


@pytest.mark.parametrize(("num_heads", "name"), [(4, "heads=4,T=12"), (12, "heads=12,T=12"), (16, "heads=16,T=12")])
def test_alibi_table(misc: dict[str, Any], num_heads: int, name: str) -> None:
    with torch.no_grad():
        ours = ALiBi(num_heads)((12,), 0, None)
    torch.testing.assert_close(ours[0, 0], misc["alibi"][name])


def test_number_of_frames(misc: dict[str, Any]) -> None:
    extractor = ConvFeatureExtractor(width=8)
    assert {samples: extractor.num_frames(samples) for samples in misc["conv_lengths"]} == misc["conv_lengths"]


def run_lengths(masked: Tensor) -> Tensor:
    """Length of each run of masked frames in rows [R, N]."""
    edges = torch.nn.functional.pad(masked.int(), (1, 1)).diff(dim=1)  # 1: a run begins, -1: it has ended
    return (edges == -1).nonzero()[:, 1] - (edges == 1).nonzero()[:, 1]


@pytest.mark.parametrize("name", ["audio_base T=499", "audio_large T=499"])
def test_span_masks_of_2_look_like_the_official_ones(misc: dict[str, Any], name: str) -> None:
    official = misc["block_mask_statistics"][name]
    settings = official["kwargs"]
    masking = SpanMasking(settings["mask_prob"], settings["mask_length"], settings["mask_prob_adjust"])
    masked = masking.sample(combine_keys(7, torch.arange(NUM_MASKS)), (499,))
    assert (masked.sum(dim=1) == masking.num_masked((499,))).all()
    assert masking.num_masked((499,)) == official["masked_per_row_min_max"][0] == official["masked_per_row_min_max"][1]

    lengths = run_lengths(masked)
    # The fixture's 500 masks hold some 28,000 runs, of deviation 4.4: its mean is known to 0.026.
    assert lengths.float().mean().item() == pytest.approx(official["mean_run_length"], abs=0.12)
    histogram = torch.bincount(lengths.clamp(max=40), minlength=41)[1:].double()
    theirs = official["run_length_histogram_1..40"].double()
    assert_same_distribution(histogram, theirs)


def assert_same_distribution(counts: Tensor, official: Tensor) -> None:
    """Shares of two histograms agree within 4.5 of their own deviations, and 0.002."""
    ours, theirs = counts / counts.sum(), official / official.sum()
    p = (counts + official) / (counts.sum() + official.sum())
    deviation = (p * (1 - p) * (1 / counts.sum() + 1 / official.sum())).sqrt()
    assert ((ours - theirs).abs() <= 4.5 * deviation + 0.002).all()


def test_spans_of_1_are_the_official_ones(misc: dict[str, Any]) -> None:
    """Their distribution at the published settings is compared in tests/model/test_random_spans.py."""
    free, thinned = (
        next(
            entry["mask"]
            for entry in misc["span_masks"]
            if entry["padding_mask"] is None
            and entry["kwargs"] == {"mask_prob": 0.65, "mask_length": 10, "min_masks": 1, "require_same_masks": same}
        )
        for same in (False, True)
    )
    assert (thinned.sum(dim=1) == free.sum(dim=1).min()).all()
    assert not (thinned & ~free).any(), "random frames of the same spans are uncovered"

    keys, lengths = combine_keys(7, torch.arange(NUM_MASKS)), torch.full((NUM_MASKS,), 120)
    spans = RandomSpans(0.65, 10)
    ours = spans.draw(keys, lengths, 120)
    counts = torch.full_like(lengths, int(spans.counts(120, shared_by=4 * 120)[120]))
    ours_thinned = spans.draw(keys, lengths, 120, counts)
    for official, masked in ((free, ours), (thinned, ours_thinned & ours)):
        share = masked.float().mean(dim=1)
        deviation = max(share.std().item(), ours.float().mean(dim=1).std().item())
        assert official.float().mean().item() == pytest.approx(share.mean().item(), abs=3 * deviation)
    assert run_lengths(free).min() == run_lengths(ours).min() == 10
    assert not free[:, -1].any()
    assert not ours[:, -1].any()

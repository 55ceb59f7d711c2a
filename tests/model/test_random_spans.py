"""Spans from random starts against a plain rendering of fairseq's rule: shares, runs, single tokens and places."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from d2v.finetuning.augmentation import TokenMasks
from d2v.model.masking import RandomSpanMasking
from d2v.model.random_spans import RandomSpans
from d2v.types import TokenSequence

SPEECH = RandomSpanMasking(0.65, 10, shared_by=11_875)  # data2vec 1.0: batches of 3,800,000 samples
TEXT = RandomSpanMasking(0.35, 4, inside=False)
KEYS = torch.arange(4000) + 2**33


def fairseq_spans(rng: np.random.Generator, rows: int, starts: int, size: int, prob: float, span: int) -> np.ndarray:
    """Spans from a random choice of the places before ``starts``, as many as ``prob`` says, rounded at random."""
    number = np.maximum(1, (prob * size / span + rng.random((rows, 1))).astype(int))
    started = np.zeros((rows, size + span), dtype=bool)
    started[:, :starts] = rng.random((rows, starts)).argsort(axis=1).argsort(axis=1) < number
    return np.stack([np.roll(started, offset, axis=1) for offset in range(span)]).any(axis=0)[:, :size]


def fairseq_batches(rng: np.random.Generator, batches: int, rows: int, size: int, prob: float, span: int) -> Tensor:
    """Masks by the rule of ``compute_mask_indices``: all rows of a batch are thinned to the one that has least."""
    masked = fairseq_spans(rng, batches * rows, size - span, size, prob, span)
    least = masked.sum(axis=1).reshape(batches, rows).min(axis=1).repeat(rows)
    order = np.argsort(rng.random(masked.shape) - masked, axis=1).argsort(axis=1)  # covered ones first, at random
    return torch.from_numpy(order < least[:, None])


def fairseq_text(rng: np.random.Generator, rows: int, size: int) -> Tensor:
    """Masks by the rule of ``MaskTokensDataset`` with 35% in spans of 4."""
    return torch.from_numpy(fairseq_spans(rng, rows, size, size, 0.35, 4))


def run_lengths(masked: Tensor) -> Tensor:
    edges = torch.nn.functional.pad(masked.int(), (1, 1)).diff(dim=1)  # 1: a run begins, -1: it has ended
    return (edges == -1).nonzero()[:, 1] - (edges == 1).nonzero()[:, 1]


def assert_alike(ours: Tensor, theirs: Tensor, share: float, runs: float) -> None:
    """The same share, run lengths, single tokens, and chance of each place, near the ends too."""
    assert ours.float().mean() == pytest.approx(theirs.float().mean().item(), abs=share)
    lengths, official = run_lengths(ours), run_lengths(theirs)
    assert lengths.float().mean() == pytest.approx(official.float().mean().item(), rel=runs)
    for length in (1, 5, 10):
        at_least = (official >= length + 1).float().mean().item()
        assert (lengths >= length + 1).float().mean() == pytest.approx(at_least, abs=0.02)
    deviation = (0.25 / len(ours) + 0.25 / len(theirs)) ** 0.5
    places = (ours.float().mean(dim=0) - theirs.float().mean(dim=0)).abs()
    assert places.max() < 4.5 * deviation + share
    assert places[:12].mean() < 0.02
    assert places[-12:].mean() < 0.02


@pytest.mark.parametrize("size", [149, 319, 499, 779, 999])
def test_speech_masks_are_distributed_as_in_a_published_batch(size: int) -> None:
    rng, rows = np.random.default_rng(size), 11_875 // size
    theirs = fairseq_batches(rng, 150, rows, size, 0.65, 10)
    ours = SPEECH.sample(KEYS[:3000], (size,))
    # A batch's least count deviates by 2% of 300 frames, and ours is a whole number of frames.
    assert_alike(ours, theirs, share=4 * 0.3 / size**0.5 / 150**0.5 + 0.5 / size, runs=0.06)


@pytest.mark.parametrize(("seconds", "official"), [(15.6, 0.452), (10.0, 0.433)])
def test_share_of_published_pretraining(seconds: float, official: float) -> None:
    frames = int(seconds * 50) - 1
    assert SPEECH.num_masked((frames,)) / frames == pytest.approx(official, abs=0.003)


@pytest.mark.parametrize(("prob", "official"), [(0.5, 0.308), (0.25, 0.167), (0.1, 0.083)])
def test_share_of_published_channel_masks(prob: float, official: float) -> None:
    """Measured on fairseq with 14 clips; 10,000 frames are its batch."""
    tokens = TokenSequence(torch.ones(40, 700, 768), (700,))
    hidden, _ = TokenMasks(0.0, 10, prob, 64, shared_by=10_000).apply(tokens, torch.arange(40))
    zero = (hidden.tokens == 0).all(dim=1)
    assert zero.float().mean() == pytest.approx(official, abs=0.003)
    rng = np.random.default_rng(1)
    theirs = fairseq_batches(rng, 60, 14, 768, prob, 64)
    spans = RandomSpans(prob, 64)
    counts = torch.full((2000,), int(zero[0].sum()))
    ours = spans.draw(KEYS[:2000], torch.full((2000,), 768), 768, counts)
    # One span of all that a clip may have is cut in a fifth of the clips: runs of holes of any length.
    assert_alike(ours, theirs, share=0.02, runs=0.15)


@pytest.mark.parametrize("prob", [0.65, 0.5])
def test_time_masks_of_fine_tuning_are_distributed_as_in_a_published_batch(prob: float) -> None:
    rng, size = np.random.default_rng(2), 700
    theirs = fairseq_batches(rng, 120, 14, size, prob, 10)
    tokens = TokenSequence(torch.ones(2000, size, 1), (size,))
    _, ours = TokenMasks(prob, 10, shared_by=10_000).apply(tokens, KEYS[:2000])
    assert set(ours.sum(dim=1).tolist()) == {ours[0].sum().item()}
    assert_alike(ours, theirs, share=0.01, runs=0.06)


@pytest.mark.parametrize("size", [512, 200])
def test_text_masks_are_distributed_as_fairseqs(size: int) -> None:
    theirs = fairseq_text(np.random.default_rng(0), 2000, size)
    ours = TEXT.sample(KEYS[:3000], (size,))
    assert set(ours.sum(dim=1).tolist()) == {TEXT.num_masked((size,))}
    assert_alike(ours, theirs, share=0.005, runs=0.05)
    shorter = (run_lengths(ours) < 4).float().mean() - (run_lengths(theirs) < 4).float().mean()
    assert shorter < 12 / size  # one span of each block is cut to reach the count


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(("size", "spans", "span"), [(14, 4, 3), (13, 3, 5), (9, 2, 1), (12, 0, 3), (9, 1, 4)])
def test_what_spans_cover_is_known_exactly(inside: bool, size: int, spans: int, span: int) -> None:
    counted = np.zeros(size + 1)
    for starts in itertools.combinations(range(size - span if inside else size), spans):
        covered = {start + offset for start in starts for offset in range(span)}
        counted[len(covered & set(range(size)))] += 1
    np.testing.assert_allclose(
        RandomSpans(0.5, span, inside)._exactly(size, spans), counted / counted.sum(), atol=1e-12
    )


def test_counts_between_computed_lengths_are_straight() -> None:
    """Above 256 tokens every 16th is computed."""
    for size in (300, 331, 777):
        exact = (SPEECH.spans._at_least(size) ** (11_875 // size)).sum()
        assert SPEECH.num_masked((size,)) == pytest.approx(exact, abs=0.5 + 0.001 * size)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(2, 60), min_size=1, max_size=6),
    st.sampled_from([0.05, 0.35, 0.9]),
    st.sampled_from([1, 2, 5, 12]),
    st.sampled_from([None, 50, 1000]),
    st.booleans(),
    st.integers(0, 2**40),
)
@example([60, 12, 11, 10, 9, 2], 0.65, 10, 11_875, True, 1)  # clips hardly longer than a span, and shorter ones
@example([60, 4, 3, 2], 0.35, 4, None, False, 0)
@example([3, 2], 0.9, 1, 50, False, 0)  # as many spans as the row alone has room for, whatever the batch has
def test_masks_have_exact_counts_and_depend_on_nothing_else(lengths, prob, span, shared_by, inside, key) -> None:
    masking = RandomSpanMasking(prob, span, shared_by, inside)
    keys = torch.arange(key, key + len(lengths))
    masked = masking.sample(keys, (max(lengths),), torch.tensor(lengths))
    counts = masked.sum(dim=1)
    assert counts.tolist() == [masking.num_masked((length,)) for length in lengths]
    assert counts.tolist() == masking.count(np.array(lengths)).tolist()
    for i, length in enumerate(lengths):
        assert 0 < counts[i] < length
        assert not masked[i, length:].any()
        assert torch.equal(masking.sample(keys[i : i + 1], (length,))[0], masked[i, :length])


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match=r"mask_prob must lie between 0 and 10, the span, not 0"):
        RandomSpanMasking(0)
    with pytest.raises(ValueError, match="span must be at least 1 token, not 0"):
        RandomSpanMasking(span=0)
    with pytest.raises(ValueError, match="shared_by must be at least 1 token, or null, not 0"):
        RandomSpanMasking(shared_by=0)
    with pytest.raises(ValueError, match="shared_by must be at least 1 token"):
        TokenMasks(shared_by=-1)
    with pytest.raises(ValueError, match="1 token is too short to be masked"):
        RandomSpanMasking().num_masked((1,))

"""Properties of batches by length."""

import tracemalloc
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2v.data.length_buckets import LengthBuckets, consecutive_batches
from d2v.data.sampler import StreamSampler

lengths = st.lists(st.integers(1, 100), min_size=1, max_size=150).map(np.array)
limits = st.integers(100, 400)


def batches_of(buckets: LengthBuckets, epoch: int) -> list[list[int]]:
    numbers = np.arange(len(buckets))
    return [batch.tolist() for batch in buckets.batches(np.full_like(numbers, epoch), numbers)]


@settings(max_examples=100, deadline=None)
@given(lengths=lengths, limit=limits, seed=st.integers(0, 5))
def test_every_epoch_holds_every_sample_once_within_the_limit(lengths: np.ndarray, limit: int, seed: int) -> None:
    buckets = LengthBuckets(lengths, limit, seed)
    for epoch in (0, 1, 7):
        batches = batches_of(buckets, epoch)
        assert sorted(chain.from_iterable(batches)) == list(range(len(lengths)))
        assert all(0 < len(batch) * lengths[batch].max() <= limit for batch in batches)


@settings(max_examples=60, deadline=None)
@given(
    lengths=lengths,
    limit=limits,
    seed=st.integers(0, 5),
    world=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    cut=st.integers(0, 30),
)
def test_ranks_share_the_stream_and_a_resume_goes_on_in_it(
    lengths: np.ndarray, limit: int, seed: int, world: int, accumulation: int, cut: int
) -> None:
    buckets = LengthBuckets(lengths, limit, seed)

    def sampler(rank: int, ranks: int = world) -> StreamSampler:
        return StreamSampler(len(buckets), 1, seed, rank, ranks, accumulation, unpack=buckets.batches)

    def epochs(rank: int, count: int) -> list[list[tuple[int, int]]]:
        ours, seen = sampler(rank), []
        for epoch in range(count):
            ours.set_epoch(epoch)
            seen += list(ours)
        return seen

    shares = [epochs(rank, 2) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert len(sampler(0)) % accumulation == 0
    stream = list(chain.from_iterable(zip(*shares, strict=True)))
    assert (
        stream
        == [batch for epoch in range(len(stream) // len(buckets) + 1) for batch in _in_order(buckets, seed, epoch)][
            : len(stream)
        ]
    )
    done = cut % (len(shares[0]) + 1)
    resumed = sampler(world - 1)
    resumed.seek(resumed.position(done), done)
    rest = shares[-1][done:]
    assert list(resumed)[: len(rest)] == rest[: len(resumed)]


def _in_order(buckets: LengthBuckets, seed: int, epoch: int) -> list[list[tuple[int, int]]]:
    """The batches of a data epoch, in the order of the stream."""
    whole = StreamSampler(len(buckets), 1, seed, unpack=buckets.batches)
    whole.set_epoch(epoch)
    return list(whole)


def test_batches_are_mixed_anew_and_little_is_padding() -> None:
    lengths = np.random.default_rng(0).integers(32_000, 320_000, 5_000)
    limit = 60 * 16_000
    buckets = LengthBuckets(lengths, limit, seed=1)
    first, second = (set(map(frozenset, batches_of(buckets, epoch))) for epoch in (0, 1))
    assert len(first & second) < len(first) / 10
    same, other = LengthBuckets(lengths, limit, seed=1), LengthBuckets(lengths, limit, seed=2)
    assert first == set(map(frozenset, batches_of(same, 0)))
    assert first != set(map(frozenset, batches_of(other, 0)))
    padded = sum(len(batch) * lengths[list(batch)].max() for batch in first)
    assert 1 - lengths.sum() / padded < 0.02
    assert padded / len(first) > 0.85 * limit


def test_a_batch_of_a_new_epoch_costs_no_look_at_all_samples() -> None:
    buckets = LengthBuckets(np.random.default_rng(0).integers(32_000, 320_000, 300_000), 60 * 16_000, seed=1)
    buckets.batches(np.array([0]), np.array([0]))
    tracemalloc.start()
    for epoch in (1, 2):
        buckets.batches(np.array([epoch]), np.array([77]))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20_000  # bytes


def test_what_cannot_be_batched_is_refused() -> None:
    with pytest.raises(ValueError, match="above the limit"):
        LengthBuckets(np.array([5, 11]), 10, 0)
    with pytest.raises(ValueError, match="no sample"):
        LengthBuckets(np.array([], dtype=np.int64), 10, 0)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 100), max_size=40), limit=st.integers(1, 300))
def test_consecutive_batches_keep_the_order(lengths: list[int], limit: int) -> None:
    batches = consecutive_batches(lengths, limit)
    assert list(chain.from_iterable(batches)) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= limit for b in batches)

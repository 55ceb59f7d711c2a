"""Properties of the order of samples."""

from itertools import chain

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2v.data.sampler import OrderedSampler, StreamSampler
from d2v.data.samples import keyed_randomness, stable_seed

sizes = {
    "num_samples": st.integers(1, 60),
    "batch_size": st.integers(1, 5),
    "world_size": st.integers(1, 4),
    "accumulation": st.integers(1, 3),
    "seed": st.integers(0, 10),
}


def stream(num_samples: int, batch_size: int, seed: int, world_size: int, accumulation: int, epochs: int) -> list:
    """What all ranks together see, in the order of the stream."""
    seen: list[tuple[int, int]] = []
    ranks = [StreamSampler(num_samples, batch_size, seed, r, world_size, accumulation) for r in range(world_size)]
    for epoch in range(epochs):
        for sampler in ranks:
            sampler.set_epoch(epoch)
        for batches in zip(*ranks, strict=True):
            seen += chain.from_iterable(batches)
    return seen


@settings(max_examples=80, deadline=None)
@given(**sizes)
def test_the_ranks_partition_an_endless_stream_of_permutations(
    num_samples: int, batch_size: int, seed: int, world_size: int, accumulation: int
) -> None:
    seen = stream(num_samples, batch_size, seed, world_size, accumulation, epochs=3)
    assert seen == stream(num_samples, 1, seed, 1, 1, epochs=len(seen) // num_samples + 1)[: len(seen)]
    for start in range(0, len(seen) - num_samples + 1, num_samples):
        data_epoch = seen[start : start + num_samples]
        assert sorted(data_epoch) == [(start // num_samples, index) for index in range(num_samples)]


@settings(max_examples=60, deadline=None)
@given(**sizes)
def test_an_epoch_is_whole_optimizer_steps(
    num_samples: int, batch_size: int, seed: int, world_size: int, accumulation: int
) -> None:
    sampler = StreamSampler(num_samples, batch_size, seed, 0, world_size, accumulation)
    assert len(list(sampler)) == len(sampler)
    assert len(sampler) % accumulation == 0
    assert all(len(batch) == batch_size for batch in sampler)
    step = batch_size * world_size * accumulation
    assert len(sampler) * batch_size * world_size == max(1, num_samples // step) * step


@settings(max_examples=60, deadline=None)
@given(**sizes, batches=st.integers(0, 40), new_batch_size=st.integers(1, 5))
def test_seek_goes_on_in_the_stream_even_with_another_batch_size(
    num_samples: int,
    batch_size: int,
    seed: int,
    world_size: int,
    accumulation: int,
    batches: int,
    new_batch_size: int,
) -> None:
    old = StreamSampler(num_samples, batch_size, seed, 0, world_size, accumulation)
    position = old.position(batches)
    done = [batches]
    new = StreamSampler(num_samples, new_batch_size, seed, consumed=lambda: done[0])
    new.seek(position, batches)
    reference = stream(num_samples, 1, seed, 1, 1, epochs=(position + 2 * len(new) * new_batch_size) // num_samples + 2)
    first = list(chain.from_iterable(new))
    assert first == reference[position : position + len(first)]
    done[0] += len(new)
    new.set_epoch(7)  # whatever Lightning counts
    second = list(chain.from_iterable(new))
    assert second == reference[position + len(first) : position + 2 * len(first)]


def test_another_seed_gives_another_order() -> None:
    orders = [list(StreamSampler(100, 10, seed)) for seed in (0, 1, 0)]
    assert orders[0] != orders[1]
    assert orders[0] == orders[2]


def test_iterating_takes_the_start_of_the_moment() -> None:
    sampler = StreamSampler(10, 2, 0)
    iterator = iter(sampler)
    sampler.set_epoch(1)
    assert next(iterator) == next(iter(StreamSampler(10, 2, 0)))


def test_ordered_sampler_divides_without_repetition() -> None:
    shares = [list(OrderedSampler(range(10), rank, 3)) for rank in range(3)]
    assert sorted(chain.from_iterable(shares)) == [(0, index) for index in range(10)]


def test_keyed_randomness_leaves_the_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with keyed_randomness(1, 2):
        inside = torch.rand(1)
    assert torch.equal(torch.rand(2), expected)
    with keyed_randomness(1, 2):
        assert torch.equal(torch.rand(1), inside)
    assert stable_seed(1, 2) != stable_seed(2, 1)
    assert stable_seed(0, 0) == 520810605562734633  # runs are resumed on other machines

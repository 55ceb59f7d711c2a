"""Broken samples are counted once, whichever process meets them, and telling their number needs no look at all."""

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from d2v.data.broken_samples import SkippedSamples
from d2v.data.samples import SampleDataset, collate_samples
from d2v.errors import BrokenSample, UserError


class EveryThirdBroken(SampleDataset):
    broken_for_good = False  # so that each of them is tried, and marked, again and again

    def load(self, index: int) -> tuple[Tensor, int | None]:
        if index % 3 == 0:
            raise BrokenSample("it is a third one")
        return torch.zeros(1), None


@pytest.mark.parametrize("workers", [0, 3])
def test_each_is_counted_once_in_all_processes_together(workers: int) -> None:
    skipped = SkippedSamples(str, 60, 0.5)
    dataset = EveryThirdBroken(60, 0, skipped)
    keys = [(epoch, index) for epoch in range(2) for index in range(30)]
    loader = DataLoader(dataset, batch_size=5, sampler=keys, collate_fn=collate_samples, num_workers=workers)
    assert sum(len(batch.inputs) for batch in loader) == 60
    assert skipped.count == 10
    skipped.check()
    skipped._max_fraction = 0.1
    with pytest.raises(UserError, match=r"10 of 38 files tried so far cannot be read: more than .* 0\.1"):
        skipped.check()


def test_a_good_sample_can_turn_out_broken_and_stays_so() -> None:
    skipped = SkippedSamples(str, 40, 0.0)
    for index in range(10):
        skipped.mark_good(index)
        skipped.mark_good(index)
        skipped.mark_broken(index, BrokenSample("later"))
        skipped.mark_good(index)
    assert skipped.count == 10
    with pytest.raises(UserError, match="10 of 10 files"):
        skipped.check()

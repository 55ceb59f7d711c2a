"""The one line that is left of an error says what happened, wherever it happened."""

import os
import signal

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from d2v.cli import _describe
from d2v.data.broken_samples import SkippedSamples
from d2v.data.loading_processes import Loader, begin
from d2v.data.samples import SampleDataset, collate_samples
from d2v.errors import UserError


class _Failing(SampleDataset):
    def __init__(self, error: Exception) -> None:
        super().__init__(2, 0, SkippedSamples("pictures/{}.png".format, 2, 0.5))
        self._error = error

    def load(self, index: int) -> tuple[Tensor, None]:
        raise self._error


def _failure(error: Exception, num_workers: int) -> str:
    loader = DataLoader(_Failing(error), sampler=[(0, 1)], collate_fn=collate_samples, num_workers=num_workers)
    with pytest.raises(Exception) as failure:
        next(iter(loader))
    return _describe(failure.value, debug=False)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_while_reading_names_its_text_and_the_sample(num_workers: int) -> None:
    """In a process of its own, torch's error begins with a line that says nothing."""
    line = _failure(TypeError("'NoneType' object is not iterable"), num_workers)
    assert line.startswith("d2v: failed: TypeError: 'NoneType' object is not iterable")
    assert "while reading pictures/1.png" in line
    assert "\n" not in line


def test_bad_input_in_a_loading_process_stays_bad_input() -> None:
    assert _failure(UserError("data.root x: is wrong."), 1).splitlines()[0] == "d2v: error: data.root x: is wrong."


class _Killed(SampleDataset):
    signal = signal.SIGKILL

    def load(self, index: int) -> tuple[Tensor, None]:
        os.kill(os.getpid(), self.signal)  # as the kernel does where memory runs out, or a memory map has no file
        return torch.zeros(1), None


@pytest.mark.parametrize(
    ("number", "hints"),
    [
        (signal.SIGKILL, ["most likely because the system was out of memory: lower data.num_workers", "--resume"]),
        (signal.SIGBUS, ["/dev/shm is too small", "file became shorter while it was read"]),
    ],
)
def test_a_loading_process_that_a_signal_ended(number: int, hints: list[str]) -> None:
    data = _Killed(4, 0, SkippedSamples(str, 4, 0.0))
    data.signal = number
    loader = Loader(data, sampler=[(0, 0), (0, 1)], collate_fn=collate_samples, num_workers=1, worker_init_fn=begin)
    with pytest.raises(RuntimeError) as failure:
        next(iter(loader))
    line = _describe(failure.value, debug=False)
    assert line.startswith("d2v: failed: RuntimeError: DataLoader worker (pid")
    for hint in hints:
        assert hint in line


def test_a_heading_is_followed_by_what_it_announces() -> None:
    model = torch.nn.Linear(2, 3)
    with pytest.raises(RuntimeError) as failure:
        model.load_state_dict(torch.nn.Linear(2, 4).state_dict())
    line = _describe(failure.value, debug=True)
    assert "size mismatch for weight: copying a param with shape torch.Size([4, 2])" in line
    assert "\n" not in line


def test_a_cause_that_another_error_hides() -> None:
    cause = RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)")
    try:
        try:
            raise cause
        finally:
            raise RuntimeError("Please call `iter(combined_loader)` first.")
    except RuntimeError as error:
        line = _describe(error, debug=False)
    assert "No space left on device" in line
    assert "data.num_workers 0" in line
    assert "--shm-size" in line

"""Loading processes end with their main process, however it ends, and say what they wait for."""

import logging
import multiprocessing
import os
import re
import signal
import time
from itertools import chain, islice
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import d2v.data.loading_processes as loading_processes
from d2v.data.broken_samples import SkippedSamples
from d2v.data.loading_processes import Loader, StreamLoader, begin
from d2v.data.sampler import StreamSampler
from d2v.data.samples import SampleDataset, collate_samples


class Hanging(SampleDataset):
    """Each loading process writes its number into a folder, and then waits for a sample that never comes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(4, 0, SkippedSamples(lambda index: f"clip {index}", 4, 0.0))
        self.folder = folder

    def load(self, index: int) -> tuple[Tensor, int | None]:
        (self.folder / str(os.getpid())).touch()
        time.sleep(100)
        return torch.zeros(1), None


def load_for_ever(folder: Path, ours: bool) -> None:
    """A main process with two loading processes."""
    kind, start = (Loader, begin) if ours else (DataLoader, None)
    loader = kind(
        Hanging(folder), sampler=[(0, 0), (0, 1)], collate_fn=collate_samples, num_workers=2, worker_init_fn=start
    )
    for _ in loader:
        pass


def pids_in(folder: Path) -> list[int]:
    deadline = time.monotonic() + 30
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return [int(path.name) for path in folder.iterdir()]


def left_after(pids: list[int], seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    left = pids
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = [pid for pid in left if Path(f"/proc/{pid}").exists() and not is_dead(pid)]
    return left


def is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("ours", [True, False])
def test_none_outlives_a_main_process_that_was_killed(tmp_path: Path, ours: bool) -> None:
    """Also one that waits for a file; the control is torch's own loader, which looks between two samples only."""
    main = multiprocessing.get_context("fork").Process(target=load_for_ever, args=(tmp_path, ours))
    main.start()
    pids = pids_in(tmp_path)
    assert len(pids) == 2
    os.kill(main.pid or 0, signal.SIGKILL)
    main.join()
    left = left_after(pids, 10 if ours else 2)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(left) == (0 if ours else 2)


def test_one_that_waits_for_a_file_does_not_hold_the_end_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)
    loader = Loader(
        Hanging(tmp_path), sampler=[(0, 0), (0, 1)], collate_fn=collate_samples, num_workers=2, worker_init_fn=begin
    )
    iterator = iter(loader)
    pids = pids_in(tmp_path)
    del iterator
    assert len(pids) == 2
    assert not left_after(pids, 10)


def end_while_they_load(folder: Path) -> None:
    global kept
    keys = [(0, index) for index in range(2)]
    kept = iter(Loader(Hanging(folder), sampler=keys, collate_fn=collate_samples, num_workers=2, worker_init_fn=begin))
    pids_in(folder)


def test_a_main_process_that_ends_takes_them_along_without_an_error(tmp_path: Path) -> None:
    main = multiprocessing.get_context("fork").Process(target=end_while_they_load, args=(tmp_path,))
    main.start()
    main.join(20)
    assert main.exitcode == 0
    assert not left_after(pids_in(tmp_path), 5)


def test_a_file_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading_processes, "_PATIENCE", 0.2)
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 1)))
    monkeypatch.setattr(loading_processes, "_watching", loading_processes._Watching())
    with caplog.at_level(logging.WARNING):
        next(iter(Loader(Hanging(tmp_path), sampler=[(0, 3)], collate_fn=collate_samples)))
    messages = [record.getMessage() for record in caplog.records]
    assert re.match(r"data: still waiting for clip 3 after \d s: its disk", messages[0])
    assert len(messages) <= 3  # less and less often


class Order(Dataset[int]):
    """Notes what was asked for."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __getitem__(self, key: tuple[int, int]) -> int:
        with self.file.open("a") as file:
            file.write(f"{key[1]}\n")
        return key[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_fetch_ahead_of_the_end_of_an_epoch_and_a_cut_one_goes_on_where_it_was(
    tmp_path: Path, workers: int
) -> None:
    consumed = 0
    stream = StreamSampler(12, 3, seed=0, consumed=lambda: consumed)
    loader = StreamLoader(
        Order(tmp_path / "asked"), stream, collate_fn=list, num_workers=workers, worker_init_fn=begin,
        persistent_workers=workers > 0,
    )  # fmt: skip
    expected = [index for _, index in chain.from_iterable(stream.at(range(48)))]
    seen = []
    for epoch, length in enumerate((4, 2, 4)):  # the second is cut short, as by `limit_train_batches`
        stream.set_epoch(epoch)
        for batch in islice(iter(loader), length):
            seen += batch
            consumed += 1
    assert seen == expected[:30]
    if workers:
        asked = (tmp_path / "asked").read_text().split()
        assert len(asked) <= 30 + 2 * workers * 3, "each was asked for once, and two batches a process ahead"
    consumed = 1  # somewhere else
    stream.set_epoch(0)
    assert list(chain.from_iterable(loader)) == expected[3:15]

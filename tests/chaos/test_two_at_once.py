"""Two of anything at once: neither harms the other, and one that is killed keeps nobody waiting."""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from d2v.commands.run_folder import make_run_dir
from d2v.data.user_cache import cached_arrays, entries
from d2v.demo.demo_folder import DemoFolder
from d2v.errors import UserError
from d2v.modalities.speech.report import prepare_speech
from d2v.modalities.text.corpus import preparation

FORK = multiprocessing.get_context("fork")  # nothing is imported again


def together(
    function: Callable[[int], Any], count: int = 2, killed: int | None = None, after: float = 0.3
) -> list[Any]:
    """What a function returned or raised in each of several processes; None of the one that was killed."""
    barrier = FORK.Barrier(count + 1)
    pipes = [FORK.Pipe() for _ in range(count)]  # a queue would have a lock, which the killed one might hold

    def run(number: int) -> None:
        barrier.wait()
        try:
            pipes[number][1].send(function(number))
        except UserError as error:
            pipes[number][1].send(error)

    processes = [FORK.Process(target=run, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    barrier.wait()
    if killed is not None:
        time.sleep(after)
        processes[killed].kill()
    results = []
    for number, (receiver, _) in enumerate(pipes):
        if number == killed:
            results.append(None)
        else:
            assert receiver.poll(60), "it waits for ever"
            results.append(receiver.recv())
    for process in processes:
        process.join()
    return results


@pytest.mark.parametrize("name", [None, "mine"])
def test_runs_of_one_second_have_folders_of_their_own(tmp_path: Path, name: str | None) -> None:
    folders = together(lambda number: make_run_dir(tmp_path / "runs", name, "", f"config {number}"), 6)
    assert len(set(folders)) == 6
    assert [(folder / "config.yaml").read_text() for folder in folders] == [f"config {number}" for number in range(6)]


def test_a_cached_result_is_whole_whoever_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    whole = np.arange(200_000)

    def compute(_: int) -> bool:
        for number in range(9):
            if not np.array_equal(cached_arrays("things", str(number % 3), lambda: {"a": whole})["a"], whole):
                return False
        return True

    assert together(compute, 6, killed=0, after=0.05)[1:] == [True] * 5
    assert len([entry for entry in entries() if not entry.path.name.startswith(".")]) == 3


@pytest.mark.parametrize("killed", [None, 0, 1])
def test_raw_text_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int | None) -> None:
    """By whoever begins; when that one is killed, by the other."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(preparation, "available_cores", lambda: 1)
    generator = np.random.default_rng(0)
    words = ["".join(map(chr, generator.integers(97, 123, 5))) for _ in range(500)]
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(" ".join(generator.choice(words, 200)) for _ in range(1500)))

    def read(_: int) -> int:
        shards = preparation.open_shards(str(text), None, 400, None, 0.1)
        shards["train"].verify()
        return shards["train"].num_tokens

    counts = together(read, killed=killed)
    counts = [count for number, count in enumerate(counts) if number != killed]
    assert len(set(counts)) == 1
    assert counts[0] > 300_000
    assert read(0) == counts[0]


def test_one_of_two_makes_a_demo(tmp_path: Path) -> None:
    """The other is told so, or finds it finished; nothing that is there is removed."""

    def make(_: int) -> bool:
        folder = DemoFolder(tmp_path, "text", {"seed": 1}, ("raw",))
        if folder.finished() is not None:
            return False
        folder.clear()
        (tmp_path / "raw").mkdir()
        time.sleep(0.3)
        (tmp_path / "raw" / "a.txt").write_text("a")
        folder.finish({})
        return True

    first, second = sorted(map(str, together(make)))
    assert second == "True"
    assert first in ("False", f"{tmp_path}: another process is making it; wait until it ends")
    assert not make(0)
    (tmp_path / "raw" / "a.txt").unlink()
    assert together(make, killed=0, after=0.1)[1] is not None
    assert make(0) in (True, False), "nobody holds it any more"


def test_a_report_can_be_made_again_after_a_kill(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    (tmp_path / "sound").mkdir()
    for number in range(20):
        soundfile.write(tmp_path / "sound" / f"{number}.wav", generator.normal(0, 0.1, 3_000 + number), 16_000)

    def report(_: int) -> int:
        return len(prepare_speech(tmp_path / "sound", tmp_path / "report").written)

    report(0)
    for after in (0.0, 0.1):
        assert together(report, killed=0, after=after)[1] == 3
    assert together(report, 3) == [3, 3, 3]

"""SIGKILL in the middle of a save, on another file system than that of temporary files: the newest checkpoint is good.

`make chaos` kills 100 times; the tests of every day twice.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from full_count import CHAOS, KILLED_SAVES

SCRIPT = Path(__file__).parent / "killed_saves.py"
MEMORY = Path("/dev/shm")
KEPT = (0, 1, 2, -1) if CHAOS else (2,)


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than ``tmp_path``, if there is one."""
    place = MEMORY if os.access(MEMORY, os.W_OK) else tmp_path
    with TemporaryDirectory(dir=place, prefix="d2v-saves-") as folder:
        yield Path(folder)


def killed(folder: Path, temporary: Path, kills: int, keep: int, *control: str) -> Any:
    words = [sys.executable, str(SCRIPT), str(folder), str(temporary), str(kills), str(keep), "1", *control]
    temporary.mkdir(exist_ok=True)  # else Python takes another one
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=3000, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("keep", KEPT)
def test_a_kill_in_a_save_leaves_the_newest_good_checkpoint(tmp_path: Path, other_disk: Path, keep: int) -> None:
    kills = KILLED_SAVES // len(KEPT)
    report = killed(other_disk, tmp_path / "temporary", kills, keep)
    assert report["wrong"] == []
    assert report["hit"] >= kills // 4  # so many left a half-written file


@pytest.mark.skipif(not CHAOS, reason="of `make chaos`")
def test_plain_checkpoints_are_lost_in_a_save(tmp_path: Path, other_disk: Path) -> None:
    """The control: what Lightning writes by itself."""
    report = killed(other_disk / "control", tmp_path / "temporary", 20, 0, "control")
    assert report["wrong"]

"""A run that is killed at random moments, and continued, ends with the weights of one that was not.

`make chaos` kills 100 times; the tests of every day once.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from full_count import CHAOS, KILLS

SCRIPT = Path(__file__).parent / "killed_runs.py"
RUNS = 5 if CHAOS else 1


def killed(folder: Path, kills: int, seed: int, *control: str) -> Any:
    words = [sys.executable, str(SCRIPT), str(folder), str(kills), str(seed), *control]
    done = subprocess.run(words, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("seed", range(RUNS))
def test_kills_at_random_moments_change_nothing(tmp_path: Path, seed: int) -> None:
    report = killed(tmp_path, KILLS // RUNS, seed)
    for number, code, before, after, seconds in report["kills"]:
        assert code == (-number if number == signal.SIGKILL else 128 + number) or code == 0
        assert after > before
        assert seconds < 5
    assert report["difference"] == 0
    assert report["left"] == []


@pytest.mark.skipif(not CHAOS, reason="of `make chaos`")
def test_plain_checkpoints_lose_what_a_signal_stops(tmp_path: Path) -> None:
    """The control: without d2v's callback a signal saves nothing, so that the codes above are no matter of course."""
    report = killed(tmp_path, 2, 1, "control")
    assert any(code not in (0, 128 + number) for number, code, *_ in report["kills"])

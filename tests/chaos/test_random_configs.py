"""Random recipes train: what a config can say, and nothing refuses, works.

`make chaos` draws 500; the tests of every day draw eight, always the same.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import random_recipes
from random_recipes import failures

SCRIPT = Path(random_recipes.__file__)
CONFIGS = int(os.environ.get("D2V_CHAOS_CONFIGS", "8"))
PROCESSES = 2


def test_random_recipes_train_three_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if CONFIGS < 100:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["d2v"])
        assert failures(tmp_path, CONFIGS, seed=1) == []
        return
    running = []
    for number in range(PROCESSES):
        (tmp_path / str(number)).mkdir()
        words = [sys.executable, str(SCRIPT), str(tmp_path / str(number)), str(CONFIGS // PROCESSES), str(number)]
        running.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    found = []
    for process in running:
        out, err = process.communicate(timeout=3000)
        assert process.returncode == 0, err
        found += json.loads(out.splitlines()[-1])
    assert found == []


def test_a_recipe_that_does_not_train_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with one wrong number."""
    draw = random_recipes.trunks

    def wrong(*args: Any) -> Any:
        return draw(*args).map(lambda trunk: {**trunk, "eps": 2.0})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["d2v"])
    monkeypatch.setattr(random_recipes, "trunks", wrong)
    [(text, _)] = failures(tmp_path, 1, seed=1)
    assert "eps is 2.0: it must lie above 0 and below 1" in text

"""Random recipes train: what a config can say, and nothing refuses, works.

`make chaos` draws 500; the tests of every day draw eight, always the same.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from full_count import CHAOS, RANDOM_CONFIGS

sys.path.insert(0, str(Path(__file__).parent))
import random_recipes
from random_recipes import failures

SCRIPT = Path(random_recipes.__file__)


@pytest.mark.parametrize("seed", range(5) if CHAOS else [1])
def test_random_recipes_train_three_steps(tmp_path: Path, seed: int) -> None:
    number = RANDOM_CONFIGS // 5 if CHAOS else RANDOM_CONFIGS
    words = [sys.executable, str(SCRIPT), str(tmp_path), str(number), str(seed)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


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

"""The command line inside a test's process, for those who import the fixture."""

import logging
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import lightning  # noqa: F401  (it sets up its handlers when it is imported, which must not happen in a test)
import pytest

from d2v.cli import main

D2V = Callable[..., tuple[int, str, str]]


@pytest.fixture
def d2v(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> D2V:
    """Runs a command in an empty working folder: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["d2v"])

    def run(*args: object) -> tuple[int, str, str]:
        capfd.readouterr()
        # Lightning's own handlers keep the stderr of the test that was the first to import it.
        for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
            logging.getLogger(name).handlers = []
        logging.getLogger("lightning.pytorch").handlers = [logging.StreamHandler(sys.stderr)]
        code = main([str(arg) for arg in args])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


def seconds_of_children() -> float:
    """CPU seconds of the processes that this one started and waited for: others on the machine do not change it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

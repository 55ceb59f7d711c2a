"""Progress in a log file."""

import io

import pytest

from d2v import progress_bar
from d2v.progress_bar import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_short_work_says_nothing_in_a_log() -> None:
    log = io.StringIO()
    for _ in Progress(range(1000), desc="reading", unit="file", file=log):
        pass
    assert log.getvalue() == ""


def test_long_work_prints_whole_lines_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_LINES", 1e-9)
    log = io.StringIO()
    with Progress(total=2000, desc="reading", unit="file", file=log) as bar:
        bar.update(500)
        bar.update(500)
    lines = log.getvalue().splitlines()
    assert lines[1].startswith("reading: 1000 of 2000 (50%), ")
    assert lines[1].endswith(" left")
    assert "\r" not in log.getvalue()
    assert len(lines) == 2


def test_work_of_unknown_length_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_LINES", 1e-9)
    log = io.StringIO()
    with Progress(desc="fit", unit="step", file=log) as bar:
        bar.set_postfix_str("loss 1", refresh=False)
        bar.update(3)
    assert log.getvalue().startswith("fit: 3 in 00:00, ")
    assert log.getvalue().endswith(", loss 1\n")


def test_a_terminal_is_redrawn() -> None:
    terminal = Terminal()
    for _ in Progress(range(3), desc="reading", file=terminal):
        pass
    assert "\r" in terminal.getvalue()
    assert "100%" in terminal.getvalue()

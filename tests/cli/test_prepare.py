"""`d2v prepare` as a user calls it."""

from pathlib import Path

import pytest

from d2v.cli import main


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["prepare", "demo", "vision", "--output", str(tmp_path / "file" / "demo")]) == 2
    assert f"--output {tmp_path}/file/demo: cannot be written" in capsys.readouterr().err


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["prepare", "demo", "vision", "--output", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("args", [[], ["demo"], ["demo", "smell"]])
def test_what_is_missing_or_unknown_is_bad_input(args: list[str]) -> None:
    assert main(["prepare", *args]) == 2

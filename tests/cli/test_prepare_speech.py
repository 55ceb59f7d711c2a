"""`d2v prepare speech` as a user calls it."""

import json
from pathlib import Path

import numpy as np
import pytest
from speech_files import encoded, tones, write_audio, write_librispeech

from d2v.cli import main
from d2v.modalities.speech.layout import open_sources


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_tree_is_summed_up_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, output = tmp_path / "LibriSpeech", tmp_path / "report"
    write_librispeech(root, "train-a", {3: [0.3, 2.5], 5: [1.0]})
    write_librispeech(root, "dev-b", {7: [0.5]}, texts=False)
    write_audio(root / "dev-b/7/7/7-7-0001.flac", np.stack([tones(0.3, 8_000)] * 2, axis=1), rate=8_000)
    (root / "dev-b/7/7/7-7-0002.flac").write_bytes(b"")
    assert main(["prepare", "speech", "--input", str(root), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    for words in (
        "5 usable, 1 broken (by their headers; --decode reads all sound)",
        "0.30 to 2.50 s, median 0.50",
        "16,000 Hz: 4 clips, 8,000 Hz: 1 clips",
        "speakers     3",
        "transcripts  3 of 5 clips",
        "train-a: 3 clips",
        "7-7-0002.flac: the file is empty",
        f"written: {output}/report.json",
    ):
        assert words in said
    report = json.loads((output / "report.json").read_text())
    assert report["usable"] == 5
    assert report["speakers"] == 3
    assert list(report["broken"].values()) == ["the file is empty"]
    assert (output / "lengths.png").read_bytes().startswith(b"\x89PNG")
    lines = (output / "manifest.tsv").read_text().splitlines()
    assert lines[0] == str(root)
    assert lines[1] == "dev-b/7/7/7-7-0000.flac\t8000"
    assert lines[2] == "dev-b/7/7/7-7-0001.flac\t2400"  # at its own rate
    assert len(open_sources(str(output / "manifest.tsv"))[0]) == 5


def test_decoding_finds_what_headers_do_not_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audio(tmp_path / "good.flac", seconds=0.5)
    write_audio(tmp_path / "silent.wav", np.zeros(8_000, dtype=np.float32))
    (tmp_path / "cut.flac").write_bytes(encoded(seconds=1)[:9_000])
    assert main(["prepare", "speech", "--input", str(tmp_path), "--decode"]) == 0
    said = capsys.readouterr().out
    assert "1 usable, 2 broken (decoded to their end)" in said
    assert "silent.wav: it is silent" in said
    assert "cut.flac: it " in said
    (tmp_path / "good.flac").unlink()
    assert main(["prepare", "speech", "--input", str(tmp_path), "--decode"]) == 2
    assert "none of 2 files is usable" in capsys.readouterr().err


def test_a_glob_and_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audio(tmp_path / "a.mp3", seconds=0.5)
    write_audio(tmp_path / "b.opus", seconds=0.5)
    assert main(["prepare", "speech", "--input", f"{tmp_path}/*.opus"]) == 0
    assert "1 usable, none broken" in capsys.readouterr().out
    assert main(["prepare", "speech", "--input", f"{tmp_path}/a.mp3"]) == 0


@pytest.mark.parametrize("args", [["--input", "nowhere"], ["--input", "."], []])
def test_nothing_usable_is_bad_input(
    tmp_path: Path, args: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "speech", *args]) == 2
    error = capsys.readouterr().err
    assert "nowhere" in error or "no sound" in error or "--input" in error


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audio(tmp_path / "a.wav", seconds=0.5)
    (tmp_path / "file").write_text("in the way")
    assert main(["prepare", "speech", "--input", str(tmp_path), "--output", str(tmp_path / "file/x")]) == 2
    assert "cannot be written" in capsys.readouterr().err

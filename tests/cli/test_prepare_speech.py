"""`d2v prepare speech` as a user calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from speech_files import encoded, tones, write_audio, write_librispeech

from d2v.cli import main
from d2v.data.sound.sound_files import SOUND, read_headers
from d2v.data.sources.splits import open_splits
from d2v.modalities.speech.report import prepare_speech


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
    assert len(open_splits(str(output / "manifest.tsv"), SOUND)[0]) == 5


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


def test_what_cannot_be_read_is_an_error_of_the_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(tmp_path / ("long" * 100))  # no file system has such names
    for args in ([], ["--output", str(tmp_path / "report")]):
        assert main(["prepare", "speech", "--input", root, *args]) == 2
        error = capsys.readouterr().err
        assert f"--input {root}: cannot be read (File name too long)" in error
        assert "written" not in error
    assert main(["prepare", "speech", "--input", str(tmp_path / "none")]) == 2
    assert f"--input {tmp_path}/none does not exist" in capsys.readouterr().err


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    root, output = tmp_path / "sound", tmp_path / "report"
    for name in (b"caf\xe9", b"m\xfcsli"):
        (root / os.fsdecode(name)).mkdir(parents=True)
        (root / os.fsdecode(name) / os.fsdecode(name + b".wav")).write_bytes(encoded(".wav", 0.5))
    (root / os.fsdecode(b"caf\xe9/\xe9.wav")).write_bytes(b"")
    command = [sys.executable, "-m", "d2v.cli", "prepare", "speech", "--input", str(root), "--output", str(output)]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONUTF8": "1"})
    assert ran.returncode == 0, ran.stderr
    assert "2 usable, 1 broken" in ran.stdout
    assert "\\udce9.wav: the file is empty" in ran.stdout
    assert "caf\\udce9: 1 clips" in ran.stdout
    report = json.loads((output / "report.json").read_text())
    assert os.fsencode(next(iter(report["broken"]))).endswith(b"/\xe9.wav")
    source, _ = open_splits(str(output / "manifest.tsv"), SOUND)
    assert len(read_headers(source).clips) == 2


def test_a_speaker_that_is_not_known_is_not_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seconds in (("3-7-0000", 0.5), ("5-7-0000", 0.5), ("other", 0.08)):
        write_audio(tmp_path / f"{name}.wav", seconds=seconds)
    assert main(["prepare", "speech", "--input", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "speakers     2\n" in said
    assert "1 clips under 85 ms are too short to train on" in said


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audio(tmp_path / "a.wav", seconds=0.5)
    (tmp_path / "file").write_text("in the way")
    assert main(["prepare", "speech", "--input", str(tmp_path), "--output", str(tmp_path / "file/x")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def written(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir()}


def test_only_its_own_report_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, output = tmp_path / "sound", tmp_path / "report"
    write_audio(root / "a.wav", seconds=0.5)
    args = ["prepare", "speech", "--input", str(root), "--output", str(output)]
    assert main(args) == 0
    write_audio(root / "b.wav", seconds=0.5)
    assert main(args) == 0
    manifest = output / "manifest.tsv"
    assert manifest.read_text().splitlines()[1:] == ["a.wav\t8000", "b.wav\t8000"]
    ours = written(output)
    capsys.readouterr()

    def refused(message: str) -> None:
        before = written(output)
        assert main(args) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "give another folder" in error
        assert written(output) == before

    for suffix in (".ltr", ".wrd"):
        manifest.with_suffix(suffix).write_text("A\nB\n")
        refused(f"manifest{suffix} there belongs to another manifest.tsv")
        manifest.with_suffix(suffix).unlink()
    manifest.write_text(f"{root}\nb.wav\t8000\n")
    refused("manifest.tsv there was changed")
    for name, content in (("manifest.tsv", ours["manifest.tsv"]), ("report.json", b"{}"), ("lengths.png", b"mine")):
        for other in ours:
            (output / other).unlink(missing_ok=True)
        (output / name).write_bytes(content)
        refused(f"{name} there is not by d2v prepare speech")
    (output / "lengths.png").unlink()
    assert main(args) == 0
    assert written(output).keys() == ours.keys()


def test_the_input_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audio(tmp_path / "sound" / "a.wav", seconds=0.5)
    report = tmp_path / "report"
    assert main(["prepare", "speech", "--input", str(tmp_path / "sound"), "--output", str(report)]) == 0
    before = written(report)
    for source in (report / "manifest.tsv", report):
        capsys.readouterr()
        assert main(["prepare", "speech", "--input", str(source), "--output", str(report)]) == 2
        assert f"would be part of --input {source}; give another folder" in capsys.readouterr().err
        assert written(report) == before
    (report / "manifest.tsv").rename(report / "train.tsv")
    assert main(["prepare", "speech", "--input", str(report), "--output", str(report)]) == 2
    assert main(["prepare", "speech", "--input", str(report), "--output", str(tmp_path / "other")]) == 0


def test_a_table_of_transcripts_is_checked(tmp_path: Path) -> None:
    for number in range(3):
        write_audio(tmp_path / f"sound/n {number}.wav", seconds=0.3, seed=number)
    (tmp_path / "t.csv").write_text("Datei;Satz\nn 0.wav;Größe\nn 1.wav;ja\n", encoding="utf-8")
    assert "transcripts  0 of 3 clips (a table: --transcripts FILE)" in str(prepare_speech(tmp_path / "sound"))
    report = prepare_speech(tmp_path / "sound", transcripts=tmp_path / "t.csv")
    assert report.figures.with_transcript == 2
    assert "ß" in report.figures.letters


def test_columns_of_that_table_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audio(tmp_path / "sound/n.wav", seconds=0.3)
    (tmp_path / "t.csv").write_text("Datei;Wer;Transkript\nn.wav;Zoé;ja\n", encoding="utf-8")
    given = ["prepare", "speech", "--input", str(tmp_path / "sound"), "--transcripts", str(tmp_path / "t.csv")]
    assert main(given) == 2
    assert "text_column" in capsys.readouterr().err
    assert main([*given, "--text_column", "Transkript", "--file_column", "1"]) == 0
    assert "transcripts  1 of 1 clips, 2 different characters" in capsys.readouterr().out

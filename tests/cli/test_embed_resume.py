"""`d2v embed` that was stopped goes on, and what is there is not lost."""

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from encoders import save_checkpoint, speech_encoder

from d2v.cli import main
from d2v.features import journal as row_journal
from d2v.features.encode import Row
from d2v.features.journal import RowJournal
from d2v.modalities.speech.inputs import SpeechInputs

TINY = ((16, 10, 5), *[(16, 3, 2)] * 4, *[(16, 2, 2)] * 2)
# A part is complete with each input, and the process waits to be stopped before it reads the clip of this number.
SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from d2v.features import journal as row_journal
from d2v.modalities.speech.inputs import SpeechInputs
row_journal.PART_SECONDS = 0
read, number = SpeechInputs.read, int(sys.argv[1])
def wait(self, index, start, stop):
    if index == number:
        print("waiting", flush=True)
        time.sleep(60)
    return read(self, index, start, stop)
SpeechInputs.read = wait
from d2v.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = speech_encoder(
        width=16, depth=2, num_heads=2, extractor=TINY, position_layers=1, position_kernel=3, position_groups=2
    )
    path = tmp_path_factory.mktemp("model") / "last.ckpt"
    return save_checkpoint(encoder, path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of all lengths, some broken, so that batches mix early with late ones."""
    root = tmp_path_factory.mktemp("sound")
    generator = np.random.default_rng(0)
    for number, seconds in enumerate(generator.uniform(0.1, 4.0, 60)):
        samples = generator.uniform(-0.5, 0.5, round(seconds * 16_000))
        if number % 20 == 7:
            samples[50] = np.nan
        soundfile.write(root / f"{number:02d}.wav", samples, 16_000, subtype="FLOAT")
    return root


def arguments(checkpoint: Path, sound: Path, output: Path, *options: object) -> list[str]:
    args = ["embed", "--checkpoint", checkpoint, "--input", sound, "--output", output, "--num_workers", 0]
    return [*map(str, args), "--chunk_seconds", "1", "--overlap_seconds", "0.5", *map(str, options)]


def killed_at(clip: int, command: list[str]) -> None:
    """In a process of its own: kill it before it reads this clip."""
    read = SpeechInputs.read

    def kill(self: SpeechInputs, index: int, start: int, stop: int | None) -> torch.Tensor:
        if index == clip:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, index, start, stop)

    SpeechInputs.read = kill  # type: ignore[method-assign]
    row_journal.PART_ROWS = 3
    main(command)


@pytest.mark.parametrize(("suffix", "pool"), [(".parquet", "none"), (".npz", "mean"), (".safetensors", "none")])
def test_a_killed_run_gives_the_same_file(
    checkpoint: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, pool: str
) -> None:
    whole, output = tmp_path / f"whole{suffix}", tmp_path / f"x{suffix}"
    assert main(arguments(checkpoint, sound, whole, "--pool", pool)) == 0
    skipped = capsys.readouterr().err.count("skipped ")
    command = arguments(checkpoint, sound, output, "--pool", pool)
    process = get_context("fork").Process(target=killed_at, args=(41, command))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not output.exists()
    parts = sorted((tmp_path / f"x{suffix}.unfinished").glob("[0-9]*.parquet"))
    assert len(parts) > 1
    assert sum(pq.read_metadata(part).num_rows for part in parts) > 5
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "going on: " in err
    assert f"({skipped} skipped)" in out
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"whole{suffix}", f"x{suffix}"]


def test_processes_that_share_the_work_write_the_same_file(
    checkpoint: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of three is killed; the two others are at work at the same time, and the third goes on afterwards."""
    whole, output = tmp_path / "whole.parquet", tmp_path / "x.parquet"
    assert main(arguments(checkpoint, sound, whole, "--pool", "none")) == 0
    expected = capsys.readouterr().out.partition(":")[0]
    commands = [arguments(checkpoint, sound, output, "--pool", "none", "--share", f"{rank}/3") for rank in range(3)]
    fork = get_context("fork")
    kills = ((0, -1), (1, 30), (2, -1))
    processes = [fork.Process(target=killed_at, args=(clip, commands[rank])) for rank, clip in kills]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, -signal.SIGKILL, 0]
    assert not output.exists()
    assert main(commands[2]) == 0
    assert " is done; " in capsys.readouterr().out
    assert main(arguments(checkpoint, sound, output, "--pool", "none", "--share", "1/2")) == 2
    assert "processes 2 in place of 3" in capsys.readouterr().err
    assert main(commands[1]) == 0
    out, err = capsys.readouterr()
    assert "going on: " in err
    assert out.partition(":")[0] == expected
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.parquet", "x.parquet"]
    assert main(commands[0]) == 0
    assert "has these features already" in capsys.readouterr().out


def test_what_processes_cannot_share(
    checkpoint: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--overwrite", "--share=2/2"):
        assert main(arguments(checkpoint, sound, tmp_path / "x.npz", "--share", "0/2", option)) == 2
        assert option.replace("=", " ") in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(checkpoint: Path, sound: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.npz"
    command = [sys.executable, "-c", SCRIPT, "41", *arguments(checkpoint, sound, output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "of 60 files are done; the same command goes on from there" in err
    assert "Traceback" not in err
    assert main(arguments(checkpoint, sound, output)) == 0
    assert len(np.load(output)["id"]) == 57


def test_finished_features_are_not_replaced_silently(
    checkpoint: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.parquet"
    assert main(arguments(checkpoint, sound, output)) == 0
    before = output.stat()
    assert main(arguments(checkpoint, sound, output)) == 0
    assert "has these features already" in capsys.readouterr().out
    os.utime(sound / "05.wav", ns=(1, time.time_ns()))
    for options, message in (
        (["--layer", "0,1"], "layer 0,1 in place of none"),
        (["--precision", "bf16"], "precision bf16 in place of 32"),
        ([], "another content of --input"),
    ):
        assert main(arguments(checkpoint, sound, output, *options)) == 2
        err = capsys.readouterr().err
        assert message in err
        assert "--overwrite" in err
    assert output.stat().st_mtime_ns == before.st_mtime_ns
    assert main(arguments(checkpoint, sound, output, "--layer", 0, "--overwrite")) == 0
    assert output.stat().st_mtime_ns > before.st_mtime_ns


def test_the_beginning_of_other_features_is_not_continued(
    checkpoint: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, unfinished = tmp_path / "x.npz", tmp_path / "x.npz.unfinished"
    journal = RowJournal(unfinished, {"layer": 1, "pool": "mean"}, 16, True)
    journal.write(Row("05.wav", np.ones(16, np.float32), 3, 0, 0.5, None))
    journal.commit()
    journal.close()
    assert main(arguments(checkpoint, sound, output)) == 2
    err = capsys.readouterr().err
    assert "x.npz.unfinished beside it holds the beginning of other features (" in err
    assert "layer none in place of 1" in err
    assert main(arguments(checkpoint, sound, output, "--overwrite")) == 0
    assert not np.array_equal(np.load(output)["embedding"][0], np.ones(16))


def rows_of(name: str, value: float, count: int, first: int = 0, of: int | None = None) -> Row:
    vectors = np.full((count, 2), value, np.float32)
    return Row(name, vectors, of or count, first, 1.0, np.arange(first, first + count, dtype=np.float64))


def test_what_is_not_complete_does_not_count(tmp_path: Path) -> None:
    journal = RowJournal(tmp_path / "j", {}, 2, pooled=False)
    journal.write(rows_of("a", 1, 3))
    journal.skip()
    journal.write(rows_of("c", 2, 2, of=4))  # half of it
    journal.close()
    (tmp_path / "j/part.unfinished").write_bytes(b"torn")
    journal = RowJournal(tmp_path / "j", {}, 2, pooled=False)
    assert (journal.num_done, journal.num_vectors, journal.num_skipped) == (2, 3, 1)
    journal.write(rows_of("c", 3, 2, of=4))
    journal.write(rows_of("c", 4, 2, first=2, of=4))
    journal.write(rows_of("d", 5, 1))
    assert journal.known().to_pydict() == {
        "id": ["a", "c", "c", "d"],
        "num_frames": [3, 4, 4, 1],
        "first_frame": [0, 0, 2, 0],
        "duration": [1.0] * 4,
    }
    assert np.concatenate(list(journal.values("embedding")))[:, 0].tolist() == [1, 1, 1, 3, 3, 4, 4, 5]
    assert np.concatenate(list(journal.values("times"))).tolist() == [0, 1, 2, 0, 1, 2, 3, 0]
    journal.close()


def test_an_interrupt_within_a_write_loses_the_open_part_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = RowJournal(tmp_path / "j", {}, 2, pooled=False)
    journal.write(rows_of("a", 1, 3))
    journal.commit()
    journal.write(rows_of("b", 2, 3))

    def interrupt(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", interrupt)
        with pytest.raises(KeyboardInterrupt):
            journal.commit()
    journal.close()
    journal = RowJournal(tmp_path / "j", {}, 2, pooled=False)
    assert (journal.num_done, journal.num_vectors) == (1, 3)
    journal.close()


def test_groups_do_not_depend_on_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for part_rows in (1, 3, 100):
        monkeypatch.setattr(row_journal, "PART_ROWS", part_rows)
        journal = RowJournal(tmp_path / str(part_rows), {}, 2, pooled=False)
        for number, count in enumerate((3, 1, 1, 9, 2, 2, 4)):
            journal.write(rows_of(str(number), number, count))
        found.append([group.to_pydict() for group in journal.groups(5)])
        journal.close()
    assert found[0] == found[1] == found[2]
    assert [group["id"] for group in found[0]] == [["0", "1", "2"], ["3"], ["4", "5"], ["6"]]


def test_two_processes_do_not_write_one_output(tmp_path: Path) -> None:
    journal = RowJournal(tmp_path / "j", {}, 2, pooled=True)
    with pytest.raises(ValueError, match="another d2v embed is writing"):
        RowJournal(tmp_path / "j", {}, 2, pooled=True)
    assert json.loads((tmp_path / "j/settings.json").read_text()) == {}
    journal.close()

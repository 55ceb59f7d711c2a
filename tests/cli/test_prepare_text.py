"""`d2v prepare text` as a user calls it."""

# ruff: noqa: RUF001  (texts in many scripts)

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import D2V

from d2v.modalities.text.corpus.shards import Shards

WORLD = (
    "Der größte Fluß\n\n漢字かな交じり文。\n\nمرحبا بالعالم\n\n"
    "İstanbul'da ığdır şoför\n\n👩\u200d👩\u200d👧 🏳️\u200d🌈 👍🏽\n\n"
)


def test_raw_text_becomes_shards(d2v: D2V, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text(WORLD * 30, encoding="utf-8")
    (tmp_path / "in/b.txt.gz").write_bytes(gzip.compress(b"caf\xe9 one\ntwo\n"))
    (tmp_path / "c.jsonl").write_text('{"body": "three"}\n')
    args = ["prepare", "text", "--input", "in", "--output", "out", "--val_fraction", "0.1"]
    code, out, err = d2v(*args, "--verify")
    assert code == 0, err
    for words in (
        "files      2\n",
        "documents  136 to train on, 15 to validate",
        "; 50,260 were asked for, but this text has no more pairs that occur twice",
        "1 places that were no UTF-8 became U+FFFD",
        " tokens/s; tokenizer ",
        "verified   all checksums are right",
        "written to out\nnext: d2v fit --config own/text.yaml --data.root out --model.student.front.vocab_size ",
    ):
        assert words in out
    train = Shards.open(tmp_path / "out", "train")
    assert train is not None
    text = train.tokenizer.decode(train.read(0, train.num_tokens))
    assert all(line in text for line in WORLD.split("\n\n")[:4])
    assert "caf\ufffd one</s>two</s>" in text

    code, out, err = d2v(*args)
    assert code == 0
    assert "already in out" in out
    assert "speed" not in out
    code, out, err = d2v(*args[:-1], "0.2")
    assert code == 2
    assert "out: was prepared differently (val_fraction was 0.1 and is 0.2); give another folder" in err

    code, out, err = d2v(
        *args[:2], "--input", "c.jsonl", "--text-column", "body", "--output", "c", "--tokenizer", "out"
    )
    assert code == 0, err
    assert f"types      {len(train.tokenizer):,} with the special tokens" in out
    assert "validation none: there are too few documents" in out
    other = Shards.open(tmp_path / "c", "train")
    assert other is not None
    assert other.tokenizer.fingerprint == train.tokenizer.fingerprint

    shard = next((tmp_path / "out").glob("train-*.bin"))
    shard.write_bytes(b"\xff\xff" + shard.read_bytes()[2:])
    assert d2v(*args)[0] == 0
    code, out, err = d2v(*args, "--verify")
    assert code == 2
    assert f"{shard.relative_to(tmp_path)} was changed since it was written" in err
    shard.write_bytes(shard.read_bytes()[2:])
    assert "is damaged" in d2v(*args)[2]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--input", "nowhere", "--output", "o"], "input nowhere: does not exist"),
        (["--input", "empty.txt", "--output", "o"], "there is no text, all 1 files are empty"),
        (["--input", "t.csv", "--output", "o"], "no column 'text' among 'words', 'n'; name the one with the text"),
        (["--input", "t.csv", "--text_column", "words", "--output", "t.csv/o"], "--output t.csv/o: cannot be written"),
        (["--input", "t.csv", "--text_column", "words", "--output", "."], ".: holds something else"),
        (["--input", "t.csv", "--output", "o", "--vocab-size", "9", "--tokenizer", "t"], "not allowed with"),
        (["--input", "t.csv", "--text_column", "words", "--output", "o", "--vocab_size", "9"], "vocab_size 9: the 256"),
        (["--input", "t.csv", "--text_column", "words", "--output", "o", "--tokenizer", "t"], "nothing of this name"),
        (["--output", "o"], "--input"),
    ],
)
def test_bad_input(d2v: D2V, tmp_path: Path, args: list[str], message: str) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "t.csv").write_text("words,n\na,1\n")
    code, out, err = d2v("prepare", "text", *args)
    assert code == 2
    assert message in err
    assert not out


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(WORLD * 10, encoding="utf-8")
    command = [sys.executable, "-m", "d2v.cli", "prepare", "text", "--input", "a.txt", "--output", "out"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONUTF8": "1"})
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr  # no bar where there is no terminal
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".bin") == ["train-00000.bin"]

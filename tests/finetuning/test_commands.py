"""`d2v fit`, `validate`, `test` and `predict` with a fine-tuning config, on a tiny tree like LibriSpeech's."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from command_line import D2V
from encoders import recipe, save_checkpoint
from toy import EXTRACTOR, make_encoder, melody, text_of

from d2v.configs import SHIPPED
from d2v.finetuning.ctc import CTCModule
from d2v.modalities.speech.front_end import SpeechFrontEnd
from d2v.types import Batch

RATE = 16_000


def write_tree(root: Path, split: str, first: int, count: int) -> None:
    """Melodies of one speaker and chapter, with their transcripts."""
    folder = root / split / "19" / "7"
    folder.mkdir(parents=True)
    lines = []
    for number in range(count):
        text = text_of(first + number)
        wave = melody(text)
        soundfile.write(folder / f"19-7-{number:04d}.flac", (wave / wave.abs().max()).numpy(), RATE)
        lines.append(f"19-7-{number:04d} {text.replace('|', ' ').upper()}")
    (folder / "19-7.trans.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("speech") / "LibriSpeech"
    write_tree(root, "train-clean-100", 0, 48)
    write_tree(root, "dev-other", 1000, 6)
    return root


ENCODER = recipe(
    SpeechFrontEnd, width=32, depth=2, num_heads=2, extractor=[list(layer) for layer in EXTRACTOR],
    position_layers=1, position_kernel=5, position_groups=4,
)  # fmt: skip


@pytest.fixture
def overlay(tmp_path: Path, tree: Path) -> Path:
    """Makes any of the speech configs tiny, with an encoder from scratch."""
    content = {
        "model": {"init_args": {"checkpoint": None, "encoder_changes": None, "encoder": ENCODER, "freeze": []}},
        "data": {
            "init_args": {
                "root": str(tree), "batch_size": 41, "global_batch_size": None, "num_workers": 0, "max_hours": None,
                "train_split": "train-clean-100",
            }
        },
        "trainer": {
            "accelerator": "cpu", "max_steps": 3, "precision": "32", "val_check_interval": 2,
            "enable_progress_bar": False, "log_every_n_steps": 1,
        },
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", sorted(p.stem for p in (SHIPPED / "finetune").glob("librispeech_*.yaml")))
def test_every_recognition_config_runs(d2v: D2V, overlay: Path, name: str, large: bool) -> None:
    stack = ["--config", f"finetune/{name}.yaml"]
    if large:
        stack += ["--config", f"finetune/sizes/{name}_large.yaml", "--config", "as_published.yaml"]
    code, _, err = d2v("fit", *stack, "--config", overlay)
    assert code == 0, err
    assert not [line for line in err.splitlines() if "Warning" in line]


def test_fit_validate_test_and_predict(d2v: D2V, overlay: Path, tree: Path, tmp_path: Path) -> None:
    recipe = ["--config", "finetune/librispeech_960h.yaml", "--config", overlay]
    options = ["--trainer.max_steps", "100", "--model.optimizer.lr", "5e-3", "--data.max_seconds", "3"]
    options += ["--data.batch_size", "6", "--model.masks", "null", "--trainer.val_check_interval", "50"]
    code, _, err = d2v("fit", *recipe, *options, "--run_name", "a")
    assert code == 0, err
    with (tmp_path / "runs/a/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"train/loss", "train/lr", "train/grad_norm", "val/loss", "val/wer", "val/cer"} <= set(rows[0])

    again = ["--config", "runs/a/config.yaml", "--ckpt_path", "runs/a"]
    code, _, err = d2v("validate", *again)
    assert code == 0, err
    assert re.search(r"loss [\d.]+", err)
    assert re.search(r"wer [\d.]+%", err)
    assert re.search(r"cer [\d.]+%", err)

    code, _, err = d2v("test", *again)
    assert code == 0, err
    tested = table(tmp_path / "runs/a-test/hypotheses.tsv")
    assert [Path(row["file"]).stem for row in tested] == [f"19-7-{i:04d}" for i in range(6)]
    assert [row["reference"] for row in tested] == [text_of(1000 + i).replace("|", " ").upper() for i in range(6)]
    rate = sum(float(row["wer"]) * len(row["reference"].split()) for row in tested)
    rate /= sum(len(row["reference"].split()) for row in tested)
    stated = re.search(r"wer ([\d.]+)%", err)
    assert stated
    assert float(stated[1]) == pytest.approx(100 * rate, abs=0.05)
    assert rate < 0.8
    assert "hypotheses: runs/a-test/hypotheses.tsv, 6 rows" in err

    code, _, err = d2v("test", *again, "--model.decoder", "d2v.finetuning.decoders.BeamSearchDecoder")
    assert code == 0, err
    assert [row["file"] for row in table(tmp_path / "runs/a-test-2/hypotheses.tsv")] == [row["file"] for row in tested]

    # Other data: the case of the head, and a letter that it does not have.
    other = tmp_path / "other"
    shutil.copytree(tree / "dev-other", other / "dev-other")
    (file,) = other.rglob("*.trans.txt")
    lines = [f"{line.split(' ')[0]} {line.split(' ', 1)[1].lower()}2" for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines) + "\n")
    code, _, err = d2v("test", *again, "--data.root", other, "--data.train_split", "dev-other", "--run_name", "other")
    assert code == 0, err
    rows = table(tmp_path / "runs/other-test/hypotheses.tsv")
    assert [row["reference"] for row in rows] == [row["reference"] + "2" for row in tested]
    assert [row["hypothesis"] for row in rows] == [row["hypothesis"] for row in tested]

    # The validation split of the config, then another root: a file, a folder, a glob; without transcripts.
    code, _, err = d2v("predict", *again)
    assert code == 0, err
    texts = [row["transcript"] for row in table(tmp_path / "runs/a-predict/transcripts.tsv")]
    assert texts == [row["hypothesis"] for row in tested]

    recordings = tmp_path / "recordings"
    recordings.mkdir()
    wave = torch.cat([melody("|".join(text_of(3000 + i) for i in range(40)))])
    soundfile.write(recordings / "long.wav", (wave / wave.abs().max()).numpy(), RATE)
    first = tree / "dev-other/19/7/19-7-0000.flac"
    samples, _ = soundfile.read(first)
    soundfile.write(recordings / "short.flac", samples, RATE)
    (recordings / "broken.flac").write_bytes(b"fLaC no sound")
    soundfile.write(recordings / "silent.wav", [0.0] * RATE, RATE)
    (recordings / "deep er").mkdir()
    soundfile.write(recordings / "deep er/short.wav", samples, RATE)
    code, _, err = d2v(
        "predict", *again, "--data.root", recordings, "--model.chunk_seconds", "8", "--run_name", "folder",
        "--model.times", "all",
    )  # fmt: skip
    assert code == 0, err
    written = tmp_path / "runs/folder-predict"
    assert "times: a .json and a .srt and a .vtt file for each recording in runs/folder-predict" in err
    files = sorted(
        str(path.relative_to(written)) for path in written.rglob("*.*") if path.suffix not in (".tsv", ".yaml", ".csv")
    )
    assert files == [
        f"{name}.{kind}" for name in ("deep er/short", "long", "short", "silent") for kind in ("json", "srt", "vtt")
    ]
    result = json.loads((written / "long.json").read_text())
    assert result["segments"][-1]["words"][-1]["end"] <= len(wave) / RATE
    assert 0 < min(word["confidence"] for segment in result["segments"] for word in segment["words"]) <= 1
    found = {
        Path(row["file"]).name: row["transcript"] for row in table(tmp_path / "runs/folder-predict/transcripts.tsv")
    }
    assert set(found) == {"long.wav", "short.flac", "short.wav", "broken.flac", "silent.wav"}
    notes = {Path(row["file"]).name: row["note"] for row in table(tmp_path / "runs/folder-predict/transcripts.tsv")}
    assert notes["silent.wav"] == "silent"
    assert found["silent.wav"] == found["broken.flac"] == notes["short.flac"] == ""
    assert notes["broken.flac"]
    assert f"1 of 5 samples have no result and enter no figure: {notes['broken.flac']} (1)" in err
    assert result["text"] == found["long.wav"]
    assert found["short.flac"] == texts[0]
    assert len(found["long.wav"]) > 40
    for root in (first, recordings / "sh*.flac"):
        name = f"one{root.stem}".replace("*", "")
        code, _, err = d2v("predict", *again, "--data.root", root, "--run_name", name)
        assert code == 0, err
        rows = table(tmp_path / f"runs/{name}-predict/transcripts.tsv")
        assert [row["transcript"] for row in rows] == [texts[0]]


def test_a_fine_tuned_run_needs_no_pretrained_checkpoint(d2v: D2V, overlay: Path, tree: Path, tmp_path: Path) -> None:
    """A run that started from a checkpoint which is gone: its own folder gives the encoder."""
    recipe = ["--config", "finetune/librispeech_100h.yaml", "--config", overlay]
    assert d2v("fit", *recipe, "--run_name", "first")[0] == 0
    changes = "{layer_drop: 0.1}"
    start = ["--model.encoder", "null", "--model.checkpoint", "runs/first", "--model.encoder_changes", changes]
    code, _, err = d2v("fit", *recipe, *start, "--run_name", "second")
    assert code == 0, err
    (tmp_path / "runs/first").rename(tmp_path / "gone")
    again = ["--config", "runs/second/config.yaml", "--ckpt_path", "runs/second"]
    code, _, err = d2v("test", *again)
    assert code == 2
    assert "model.checkpoint" in err
    assert d2v("test", *again, "--model.checkpoint", "runs/second")[0] == 0
    code, _, err = d2v("fit", *recipe, *start[:2], "--model.checkpoint", "runs/second", "--resume", "runs/second",
                       "--model.encoder_changes", changes, "--trainer.max_steps", "4")  # fmt: skip
    assert code == 0, err
    assert "continuing from runs/second" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data.labels null", r"data\.labels: there are no transcripts, and `d2v fit` needs them"),
        ("--model.checkpoint nope", r"model: both of checkpoint and encoder given"),
        ("--model.encoder null", r"model: neither of checkpoint and encoder given"),
        ("--model.encoder null --model.checkpoint nope", r"model\.checkpoint: nope: no such file"),
        ("--model.freze [conv]", r"model\.freze: CTCModule has no such key; did you mean freeze\?"),
        ("--model.freeze [conv]", r"model\.freeze: the encoder has no part 'conv'"),
        ("--model.masks.time_prob 2", r"model\.masks: time_prob must lie between 0 and 1, not 2"),
        ("--model.masks.time_probb 2", r"model\.masks\.time_probb: .*time_prob"),
        ("--model.decoder d2v.finetuning.decoders.BeamSearch", r"model\.decoder: .*BeamSearch"),
        (
            "--model.decoder d2v.finetuning.decoders.BeamSearchDecoder --model.decoder.language_model no.arpa",
            r"model\.decoder\.language_model no\.arpa: no such file",
        ),
    ],
)
def test_a_bad_value_is_named(d2v: D2V, overlay: Path, tmp_path: Path, options: str, message: str) -> None:
    code, _, err = d2v("fit", "--config", "finetune/librispeech_10h.yaml", "--config", overlay, *options.split(" "))
    last = err.strip().splitlines()[-1]
    assert code == 2, err
    assert re.search(message, last), last
    assert not list(tmp_path.glob("runs/*")), "a run that could not start left a folder"


def test_an_untrained_head_and_foreign_checkpoints_are_named(d2v: D2V, overlay: Path, tmp_path: Path) -> None:
    recipe = ["--config", "finetune/librispeech_10h.yaml", "--config", overlay]
    for command in ("test", "validate"):
        code, _, err = d2v(command, *recipe)
        assert code == 2, err
        assert f"--ckpt_path: the head is untrained; give `d2v {command}`" in err
    save_checkpoint(make_encoder(), tmp_path / "pretrained.ckpt")
    code, _, err = d2v("test", *recipe, "--ckpt_path", "pretrained.ckpt")
    assert code == 2
    assert "it has no alphabet" in err


def test_a_stated_root_is_predicted_wholly(d2v: D2V, overlay: Path, tmp_path: Path) -> None:
    recipe = ["--config", "finetune/librispeech_10h.yaml", "--config", overlay]
    code, _, err = d2v("fit", *recipe, "--trainer.max_steps", "1", "--trainer.val_check_interval", "1",
                       "--data.min_seconds", "0.5", "--run_name", "a")  # fmt: skip
    assert code == 0, err
    root = tmp_path / "recordings"
    for place in ("", "train", "test", "val", "dev/deep"):
        (root / place).mkdir(parents=True, exist_ok=True)
        soundfile.write(root / place / "clip.wav", melody("ab").numpy() / 5, RATE)  # 0.2 s
    again = ["--config", "runs/a/config.yaml", "--ckpt_path", "runs/a"]

    def found(name: str, *options: object) -> set[str]:
        code, _, err = d2v("predict", *options, "--run_name", name)
        assert code == 0, err
        rows = table(tmp_path / f"runs/{name}-predict/transcripts.tsv")
        return {str(Path(row["file"]).parent.relative_to(root)) for row in rows}

    everything = {".", "train", "test", "val", "dev/deep"}
    assert found("all", *again, "--data.root", root) == everything
    assert found("repeated", "--config", "runs/all-predict/config.yaml", "--ckpt_path", "runs/a") == everything
    assert found("one", *again, "--data.root", root, "--data.val_split", "test") == {"test"}


def test_an_unfinished_table_does_not_look_complete(
    d2v: D2V, overlay: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = ["--config", "finetune/librispeech_10h.yaml", "--config", overlay, "--data.batch_size", "1"]
    recipe += ["--data.max_seconds", "1", "--data.min_seconds", "0"]
    assert d2v("fit", *recipe, "--trainer.max_steps", "1", "--run_name", "a")[0] == 0
    step = CTCModule.predict_step

    def failing(self: CTCModule, batch: Batch, batch_idx: int):
        if batch_idx == 1:
            raise RuntimeError("the power is gone")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(CTCModule, "predict_step", failing)
    code, _, _ = d2v("predict", *recipe, "--ckpt_path", "runs/a", "--run_name", "a")
    assert code == 1
    assert [path.name for path in (tmp_path / "runs/a-predict").glob("*.tsv*")] == ["transcripts.tsv.part"]
    rows = table(tmp_path / "runs/a-predict/transcripts.tsv.part")
    assert f"unfinished: runs/a-predict/transcripts.tsv.part, {len(rows)} rows" in caplog.text
    assert rows


@pytest.mark.parametrize("command", ["validate", "test"])
def test_nothing_to_validate_or_test_on_is_an_error(
    d2v: D2V, overlay: Path, digits: Path, tmp_path: Path, command: str
) -> None:
    recipe = ["--config", "finetune/clips.yaml", "--config", overlay, "--data.root", digits]
    recipe += ["--data.train_split", "null", "--trainer.check_val_every_n_epoch", "null"]
    code, _, err = d2v(command, *recipe, "--data.val_fraction", "0")
    assert code == 2, err
    assert f"there is no validation split, and `d2v {command}` needs one" in err
    assert not list(tmp_path.glob("runs/*"))


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Tones in folders of classes, and a table of several labels."""
    root = tmp_path / "digits"
    lines = []
    for number in range(18):
        text = "abc"[number % 3] * 3
        folder = root / text[0]
        folder.mkdir(parents=True, exist_ok=True)
        wave = melody(text)
        soundfile.write(folder / f"{number}.wav", (wave / wave.abs().max()).numpy(), RATE)
        lines.append(f"{text[0]}/{number}.wav\t{text[0]},tone")
    (root / "labels.tsv").write_text("\n".join(lines) + "\n")
    return root


def test_clips_are_classified(d2v: D2V, overlay: Path, digits: Path, tmp_path: Path) -> None:
    recipe = ["--config", "finetune/clips.yaml", "--config", overlay, "--data.root", digits]
    recipe += ["--data.train_split", "null", "--trainer.check_val_every_n_epoch", "null"]
    options = ["--data.val_fraction", "0.3", "--trainer.max_steps", "20", "--model.freeze_encoder_steps", "0"]
    code, _, err = d2v("fit", *recipe, *options, "--model.optimizer.lr", "5e-3", "--run_name", "a")
    assert code == 0, err
    again = ["--config", "runs/a/config.yaml", "--ckpt_path", "runs/a"]
    code, _, err = d2v("test", *again)
    assert code == 0, err
    rows = table(tmp_path / "runs/a-test/predictions.tsv")
    assert len(rows) == 5
    assert all(row["label"] == Path(row["file"]).parent.name for row in rows)
    right = sum(row["label"] == row["prediction"] for row in rows) / len(rows)
    assert f"top1 {right:.2%}" in err
    code, _, err = d2v("predict", *again, "--data.root", digits / "a")
    assert code == 0, err
    rows = table(tmp_path / "runs/a-predict/predictions.tsv")
    assert len(rows) == 6
    assert {row["prediction"] for row in rows} <= {"a", "b", "c"}


def test_several_labels_a_clip(d2v: D2V, overlay: Path, digits: Path, tmp_path: Path) -> None:
    recipe = ["--config", "finetune/audioset.yaml", "--config", overlay, "--data.root", digits]
    recipe += ["--data.train_split", "null", "--trainer.check_val_every_n_epoch", "null"]
    options = ["--data.labels", digits / "labels.tsv", "--data.val_fraction", "0.3", "--run_name", "a"]
    code, _, err = d2v("fit", *recipe, *options)
    assert code == 0, err
    code, _, err = d2v("test", "--config", "runs/a/config.yaml", "--ckpt_path", "runs/a")
    assert code == 0, err
    assert re.search(r"map [\d.]+%", err)
    assert all("tone" in row["label"].split(",") for row in table(tmp_path / "runs/a-test/predictions.tsv"))

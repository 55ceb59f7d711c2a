"""The commands as a user runs them."""

import csv
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_line import seconds_of_children

import d2v as package
from d2v.cli import COMMANDS, TRAINER_COMMANDS
from d2v.commands.run import RunCLI
from d2v.commands.run_folder import RUN_DIR_VARIABLE
from d2v.configs import SHIPPED
from d2v.errors import how_to_install
from d2v.training.callbacks.ema_teacher import EMATeacherCallback
from d2v.training.callbacks.progress import RunProgressBar

D2V = Callable[..., tuple[int, str, str]]
SCRIPT = Path(sys.executable).with_name("d2v")


def test_help_is_fast_and_names_every_command() -> None:
    start = seconds_of_children()
    by_script = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True).stdout
    assert seconds_of_children() - start < 3
    by_module = subprocess.run([sys.executable, "-m", "d2v.cli", "--help"], capture_output=True, text=True, check=True)
    assert by_module.stdout == by_script
    assert all(f"  {name} " in by_script for name in (*TRAINER_COMMANDS, *COMMANDS))


@pytest.mark.parametrize("command", [*TRAINER_COMMANDS, *COMMANDS])
def test_every_command_has_help(d2v: D2V, command: str) -> None:
    code, out, err = d2v(command, "--help")
    assert (code, err) == (0, "")
    assert f"usage: d2v {command}" in out


def test_help_of_a_class(d2v: D2V) -> None:
    code, out, _ = d2v("fit", "--model.help", "d2v.training.module.Pretraining")
    assert code == 0
    assert "masks a sample" in out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_is_saved(tiny: list[str], tmp_path: Path, number: signal.Signals, code: int) -> None:
    """As a process of its own: Ctrl-C after a few steps, or a queue's SIGTERM, which workers of the loader get too."""
    command = [SCRIPT, "fit", *tiny, "--trainer.max_steps", "100000", "--run_name", "first", "--data.num_workers", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("run folder:"):
            break
    time.sleep(3)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert re.search(r"stopped at step \d+; continue with .* --resume \S*runs/first/checkpoints/last.ckpt", err)
    saved = torch.load(tmp_path / "runs/first/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] > 0


def test_a_run_writes_its_folder_and_starts_again_from_its_config(d2v: D2V, tiny: list[str], tmp_path: Path) -> None:
    code, _, err = d2v("fit", *tiny, "--run_name", "a")
    assert code == 0, err
    assert "run folder: runs/a\n" in err
    assert not [line for line in err.splitlines() if "Warning" in line or "💡" in line]
    run = tmp_path / "runs/a"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["train/loss"]] == ["0", "1", "2"]
    assert {"train/ema_decay", "train/grad_norm", "train/lr", "val/loss"} <= set(rows[0])
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["default_root_dir"] == "runs"
    assert config["checkpoint"]["dirpath"] is None
    assert config["model"]["init_args"]["student"]["front"]["init_args"]["relative_bias"] is None  # null is written
    assert "ckpt_path" not in config

    assert d2v("fit", "--config", "runs/a/config.yaml")[0] == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"a", "a-2"}
    weights = [torch.load(tmp_path / f"runs/{name}/checkpoints/last.ckpt", weights_only=True) for name in ("a", "a-2")]
    assert all(torch.equal(weights[0]["state_dict"][k], v) for k, v in weights[1]["state_dict"].items())

    for command in ("validate", "test"):
        code, _, err = d2v(command, "--config", "runs/a/config.yaml", "--ckpt_path", "runs/a")
        assert code == 0, err
        assert f"runs/a-{command}/metrics.csv" in err
    assert d2v("predict", "--config", "runs/a/config.yaml", "--ckpt_path", "runs/a")[0] == 0
    features = np.load(tmp_path / "runs/a-predict/features.npz")
    assert features["features"].shape == (4, 16)
    assert features["sample_ids"].tolist() == [0, 1, 2, 3]


def test_a_resumed_run_ends_as_an_uninterrupted_one(d2v: D2V, tiny: list[str], tmp_path: Path) -> None:
    half = ["--checkpoint.every_n_train_steps", "2", "--checkpoint.keep", "-1"]
    assert d2v("fit", *tiny, *half, "--trainer.max_steps", "5", "--run_name", "whole")[0] == 0
    assert (
        d2v("fit", *tiny, "--resume", "auto", "--run_name", "none", "--trainer.max_steps", "5")[0] == 0
    )  # from scratch
    at_two = "runs/whole/checkpoints/step-2.ckpt"
    code, _, err = d2v("fit", *tiny, "--resume", at_two, "--trainer.max_steps", "5", "--run_name", "resumed")
    assert code == 0, err
    assert f"continuing from {at_two}" in err
    assert (tmp_path / "runs/resumed/config.yaml").read_text().startswith(f"# continued from {at_two}\n")
    states = [
        torch.load(tmp_path / f"runs/{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "resumed", "none")
    ]
    for other in states[1:]:
        assert all(torch.equal(states[0][key], value) for key, value in other.items())

    code, _, err = d2v("fit", *tiny, "--resume", "auto", "--run_name", "whole", "--trainer.max_steps", "6")
    assert code == 0
    assert "continuing from runs/whole/checkpoints/last.ckpt" in err  # not from the newer one of another name

    code, _, err = d2v("fit", *tiny, "--resume", "runs/whole", "--model.student.trunk.depth", "3")
    assert code == 2
    assert "does not fit the model of this config: method.student" in err


def test_what_a_checkpoint_holds_never_overrides_the_config(
    d2v: D2V, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert d2v("fit", *tiny, "--run_name", "a")[0] == 0
    path = tmp_path / "runs/a/checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"] = {"num_masks": 7, "seed": 99}
    torch.save(checkpoint, path)
    seen = {}
    monkeypatch.setattr(RunCLI, "after_fit", lambda cli: seen.update(cli=cli))
    options = ["--model.ema.start", "0.4", "--model.ema.end", "0.5", "--model.num_masks", "2"]
    options += ["--trainer.max_steps", "4"]
    assert d2v("fit", *tiny, *options, "--resume", path)[0] == 0
    model = seen["cli"].model
    assert (model.method.task.num_masks, model.ema.end, model.seed) == (2, 0.5, 1)


def test_a_list_of_callbacks_drops_nothing_that_the_method_needs(
    d2v: D2V, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    monkeypatch.setattr(RunCLI, "after_fit", lambda cli: seen.update(cli=cli))
    (tmp_path / "callbacks.yaml").write_text(
        "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.LearningRateMonitor}]}\n"
    )
    args = ["--config", "callbacks.yaml", "--trainer.enable_progress_bar", "true"]
    assert d2v("fit", *tiny, *args, "--trainer.callbacks+=lightning.pytorch.callbacks.Timer")[0] == 0
    names = [type(callback).__name__ for callback in seen["cli"].trainer.callbacks]
    for needed in (EMATeacherCallback, RunProgressBar):
        assert names.count(needed.__name__) == 1
    assert {"LearningRateMonitor", "Timer", "ThroughputCallback", "RunCheckpoint"} <= set(names)


@pytest.mark.parametrize("logger", ["wandb", "tensorboard"])
def test_loggers_write_into_the_run(
    d2v: D2V, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for variable in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    code, out, err = d2v("fit", *tiny, "--config", f"loggers/{logger}.yaml", "--run_name", "a")
    assert code == 0, err
    assert (tmp_path / "runs/a/metrics.csv").is_file()
    if logger == "wandb":
        __import__("wandb").finish()  # its process writes when it has the time
        assert list((tmp_path / "runs/a/wandb").glob("offline-run-*/*.wandb"))
        assert (out + err).count("W&B: not logged in") == 1
    else:
        assert list((tmp_path / "runs/a/tensorboard").glob("events.*"))
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "no-netrc"}


def test_a_failure_while_running_is_one_line_with_the_run_folder(
    d2v: D2V, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("something broke\nand more")

    monkeypatch.setattr("d2v.training.callbacks.collapse.measure", fail)
    code, _, err = d2v("fit", *tiny, "--run_name", "a")
    last = err.strip().splitlines()[-1]
    assert code == 1
    expected = "d2v: failed: RuntimeError: something broke (run folder: runs/a; --debug shows the traceback)"
    assert last == expected
    assert "Traceback" not in err
    assert "Traceback" in d2v("fit", *tiny, "--debug")[2]


def test_runs_that_start_together_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from d2v.commands.run_folder import make_run_dir

    monkeypatch.setenv(RUN_DIR_VARIABLE, "before")
    folders = [make_run_dir(tmp_path, name, "") for name in (None, None, None, "x", "x", "x")]
    assert len(set(folders)) == 6
    assert [folder.name for folder in folders[3:]] == ["x", "x-2", "x-3"]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert make_run_dir(tmp_path, None, "") == Path(os.environ[RUN_DIR_VARIABLE]) == folders[-1]


def test_doctor(d2v: D2V, tree: Path) -> None:
    code, out, err = d2v("doctor", "--data", tree)
    assert (code, err) == (0, "")
    sound = ("torchaudio", "soundfile", "espeakng-loader", "kenlm")
    for subject in ("python", "memory", "disk", "torch", "wandb", "cpu", "configs", *sound):
        assert f"  {subject} " in out
    assert f"ok  {tree}" in out
    assert "12 pictures to train on, 4 to validate, 2 classes" in out
    code, out, err = d2v("doctor", "--data", "nowhere")
    assert code == 2
    assert "MISSING  nowhere" in out
    assert "missing: nowhere" in err


def test_doctor_says_which_sound_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile

    from d2v.monitoring import machine

    library = f"libsndfile {soundfile.__libsndfile_version__}"
    state, _, text = machine._soundfile()
    assert state == "ok"
    assert text.endswith(f"{library}, reads MP3 and Opus")
    monkeypatch.setattr(soundfile, "available_formats", lambda: {"OGG": "", "WAV": ""})
    monkeypatch.setattr(soundfile, "available_subtypes", lambda kind: {"VORBIS": ""})
    state, _, text = machine._soundfile()
    assert state == "note"
    assert f"{library}, which cannot read MP3 and Opus" in text
    monkeypatch.setattr(machine, "_version", lambda name: None)
    assert machine._soundfile() == ("MISSING", "soundfile", "pip install soundfile")


def test_messages_name_packages_that_can_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not d2v itself, whose name nobody has registered."""
    assert re.fullmatch(r"pip install 'scikit-image>=[\d.]+'", how_to_install("demo"))
    assert re.fullmatch(r"pip install 'onnx>=\S+ 'onnxruntime>=\S+ 'onnxscript>=\S+", how_to_install("onnx"))
    for path in [*Path(package.__file__).parent.rglob("*.py"), *SHIPPED.rglob("*.yaml")]:
        assert not re.search(r"pip install [\"']?d2v", path.read_text(encoding="utf-8")), path

    def missing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert how_to_install("onnx").startswith("pip install -e '.[onnx]' in the folder with")

"""A project of somebody who has no part in d2v: a copy of this package, data of their own, and every command."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import d2v

HERE = Path(__file__).parent
FINETUNE = {
    "model": {
        "class_path": "d2v.finetuning.classifier.Classifier",
        "init_args": {
            "task": "single",
            "checkpoint": "runs/whole",
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-3}},
            "schedule": {"class_path": "d2v.training.schedules.WarmupLinear"},
        },
    },
    "data": {"class_path": "sensors.data.SensorDataModule", "init_args": {"root": "data"}},
    "trainer": {"max_steps": 40, "max_epochs": -1, "accelerator": "cpu", "val_check_interval": 40,
                "check_val_every_n_epoch": None, "num_sanity_val_steps": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of two frequencies with noise, and the package beside them, not installed."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(HERE / "sensors", folder / "sensors")
    shutil.copy(HERE / "sensors.yaml", folder)
    (folder / "finetune.yaml").write_text(yaml.safe_dump(FINETUNE))
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for name, frequency in (("slow", 0.05), ("fast", 0.15)):
            (folder / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                time = np.arange(200)[:, None]
                waves = np.sin(2 * np.pi * frequency * time + generator.uniform(0, 6, 3))
                noisy = waves + generator.normal(0, 0.3, (200, 3))
                np.save(folder / "data" / split / name / f"{number}.npy", noisy.astype(np.float32))
    return folder


def run(project: Path, *words: str, code: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(project), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "d2v.cli", *words]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_every_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = ("fit", "--config", "sensors.yaml", "--data.root", "data", "--trainer.accelerator", "cpu")
    run(project, *fit, "--run_name", "whole", "--trainer.max_steps", "20", "--trainer.log_every_n_steps", "10")

    # Stopped after half of the steps and resumed, it ends with the same weights. The schedule is that of 20 steps.
    halves = (*fit, "--trainer.max_steps", "20", "--trainer.log_every_n_steps", "10")
    run(project, *halves, "--run_name", "half", "--checkpoint.every_n_train_steps", "10", "--checkpoint.keep", "-1")
    run(project, *halves, "--run_name", "resumed", "--resume", "runs/half/checkpoints/step-10.ckpt")
    weights = []
    for name in ("whole", "resumed"):
        weights.append(
            torch.load(project / "runs" / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        )
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())

    # Nothing of the package is built from a checkpoint before the user allows it.
    told = run(project, "embed", "--checkpoint", "runs/whole", "--input", "data", "--output", "x.parquet", code=2)
    assert "--allow sensors" in told
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.chdir(project)
    encoder = d2v.load("runs/whole", allow=["sensors"])
    x = torch.randn(2, 3, 80)
    assert encoder(x).tokens.shape == (2, 10, 32)
    other = d2v.load("runs/whole", allow=["sensors"], weights="teacher", layer_drop=0.1)
    assert other.trunk.layer_drop == 0.1

    allowed = ("--allow", "sensors", "--checkpoint", "runs/whole")
    run(project, "embed", *allowed, "--input", "data", "--output", "features.parquet")
    assert pq.read_table(project / "features.parquet").num_rows == 64
    printed = run(
        project, "probe", *allowed, "--checkpoint", "random", "--config", "sensors.yaml", "--data.root", "data"
    )
    assert json.loads(next(line for line in printed.splitlines() if line.startswith("{")))["linear_top1"] >= 75

    told = run(project, "fit", "--allow", "sensors", "--config", "finetune.yaml", "--run_name", "tuned")
    assert "top1 100" in told
    run(project, "export", *allowed, "--format", "safetensors", "--output", "folder")
    again = d2v.load("folder", allow=["sensors"])
    assert torch.equal(again.embed(x), encoder.embed(x))
    run(project, "export", *allowed, "--format", "torch", "--output", "program")
    program = torch.export.load(project / "program" / "model.pt2").module()
    torch.testing.assert_close(program(x)[0], encoder(x).tokens, rtol=0, atol=1e-4)


def test_a_shared_trunk_reads_them(project: Path) -> None:
    joint = (
        "fit",
        "--config",
        "demo/joint.yaml",
        "--media.sensors",
        "sensors.yaml",
        "--data.parts.sensors.root",
        "data",
    )
    without = [word for name in ("vision", "speech", "text") for word in (f"--media.{name}", "null")]
    given = ("--data.parts.sensors.root", "data", "--run_name", "joint", "--trainer.max_steps", "2")
    run(project, *joint, *without, *given)
    words = ("--allow", "sensors", "--checkpoint", "runs/joint", "--modality", "sensors", "--input", "data/val")
    run(project, "embed", *words, "--output", "joint.parquet")
    assert pq.read_table(project / "joint.parquet").num_rows == 16


def test_the_page_shows_these_files() -> None:
    page = (HERE.parents[1] / "docs" / "own_modality.md").read_text()
    for file in ("sensors/front_end.py", "sensors/data.py", "sensors/inputs.py", "sensors.yaml"):
        assert (HERE / file).read_text().rstrip() in page, file

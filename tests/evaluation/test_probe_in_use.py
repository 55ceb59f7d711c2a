"""The callback in a run and the command on its checkpoint, on a tiny labelled set of pictures."""

import csv
import json
from pathlib import Path

import encoders
import lightning as L
import numpy as np
import pytest
import torch
import yaml
from encoders import vision_encoder
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from d2v.cli import main
from d2v.errors import UserError
from d2v.evaluation.frozen import extract_features
from d2v.modalities.vision.data import ImageNetDataModule
from d2v.modalities.vision.front_end import VisionFrontEnd
from d2v.model.heads import LinearHead
from d2v.model.losses import RegressionLoss
from d2v.model.masking import InverseBlockMasking
from d2v.model.targets import TopKTargets
from d2v.training.callbacks.probe import ProbeCallback
from d2v.training.module import Data2VecModule, Pretraining
from d2v.training.schedules import EMADecay, WarmupCosine

STUDENT = {
    "image_size": 16,
    "patch_size": 4,
    "width": 16,
    "depth": 2,
    "num_heads": 2,
    "masked_input": "replace",
    "dropout": 0.1,
}
COLOURS = {"blue": (40, 60, 200), "green": (60, 190, 60), "red": (210, 50, 40)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ with noisy pictures of three colours, which an untrained encoder tells apart."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noisy = np.clip(np.array(colour) + random.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(root / split / name / f"{i}.png")
    return root


def fit(root: Path, run_dir: Path, callbacks: list[L.Callback]) -> Data2VecModule:
    """Four optimizer steps of two micro-batches each, with dropout."""
    torch.manual_seed(0)
    module = Pretraining(
        student=vision_encoder(**STUDENT),
        masking=InverseBlockMasking(0.5, block_size=2),
        targets=TopKTargets(top_k=2),
        head=LinearHead,
        loss=RegressionLoss(),
        ema=EMADecay(0.9, 0.99, 4),
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        schedule=WarmupCosine(),
    )
    trainer = L.Trainer(
        max_steps=4,
        accelerator="cpu",
        logger=CSVLogger(str(run_dir), name="", version=""),
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        limit_val_batches=0,
        accumulate_grad_batches=2,
    )
    trainer.fit(module, datamodule=ImageNetDataModule(str(root), batch_size=4, image_size=16, num_workers=0))
    trainer.save_checkpoint(run_dir / "checkpoints" / "last.ckpt")
    return module


@pytest.fixture(scope="module")
def run_dir(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the callback, whose weights are those of a run without it, to the last bit."""
    run_dir = tmp_path_factory.mktemp("run")
    probed = fit(pictures, run_dir, [ProbeCallback(every_n_steps=3, k=5)])
    plain = fit(pictures, tmp_path_factory.mktemp("plain"), [])
    after = probed.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in plain.state_dict().items())
    assert probed.training
    assert probed.method.student.training
    return run_dir


def test_callback_logs_before_during_and_after(run_dir: Path) -> None:
    with (run_dir / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["probe/knn_top1"]]
    assert [int(row["step"]) for row in rows] == [0, 3, 4]
    assert all(0 <= float(row["probe/linear_top1"]) <= 100 for row in rows)


def test_callback_wants_a_datamodule() -> None:
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(UserError, match="DataModule"):
        ProbeCallback(every_n_steps=1).setup(trainer, L.LightningModule(), "fit")
    with pytest.raises(UserError, match="every_n_steps is 0"):
        ProbeCallback(every_n_steps=0)


def test_features_come_in_order_and_leave_the_modes_alone(pictures: Path) -> None:
    encoder = vision_encoder(**STUDENT).train()
    encoder.trunk.blocks[0].eval()
    loader = ImageNetDataModule(str(pictures), batch_size=5, image_size=16, num_workers=0).probe_dataloaders()[0]
    features = extract_features(encoder, loader, "cpu", progress=False)
    assert encoder.training
    assert not encoder.trunk.blocks[0].training
    assert features.features.shape == (36, 16)
    assert features.features.dtype == torch.float32
    assert features.labels.tolist() == sorted(features.labels.tolist())
    half = extract_features(encoder, loader, "cpu", "mean", autocast=torch.bfloat16, progress=False)
    torch.testing.assert_close(
        half.features, extract_features(encoder, loader, "cpu", "mean").features, atol=0.1, rtol=0.1
    )
    with pytest.raises(UserError, match="layer 7"):
        extract_features(encoder, loader, "cpu", layer=7, progress=False)


@pytest.fixture
def config(pictures: Path, tmp_path: Path) -> Path:
    """A config as `d2v fit` takes it."""
    content = {
        "seed_everything": 3,
        "model": {
            "class_path": "d2v.training.module.Pretraining",
            "init_args": {
                "student": encoders.recipe(VisionFrontEnd, **STUDENT),
                "masking": {"class_path": "d2v.model.masking.InverseBlockMasking", "init_args": {"mask_ratio": 0.5}},
                "num_masks": 2,
            },
        },
        "data": {
            "class_path": "d2v.modalities.vision.data.ImageNetDataModule",
            "init_args": {"root": str(pictures), "batch_size": 7, "image_size": 16, "num_workers": 0},
        },
        "trainer": {"max_steps": 4},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_command_compares_a_run_with_an_untrained_encoder(
    run_dir: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(run_dir / "checkpoints" / "last.ckpt")
    words = ["probe", "--checkpoint", checkpoint, "--checkpoint", "random", "--config", str(config), "--device", "cpu"]
    assert main([*words, "--data.batch_size", "9", "--max_samples=30", "--output", str(tmp_path / "out")]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert result["checkpoint"] == checkpoint
    assert result["baseline"]["checkpoint"] == "random"
    assert (result["train_samples"], result["val_samples"], result["num_classes"]) == (30, 12, 3)
    assert "linear_top5" not in result
    assert result["baseline"]["linear_top1"] == 100  # three plain colours
    assert any("kNN top-1" in line and f"{result['knn_top1']:.2f}" in line for line in table)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"masks.png", "features_pca.png", "curves.png"}


def test_command_needs_no_config(
    run_dir: Path, config: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An encoder says what reads its data, and a run what it was trained on; pictures have the encoder's size."""
    words = ["probe", "--checkpoint", str(run_dir), "--device", "cpu"]
    assert main([*words, "--data.root", str(pictures / "train"), "--data.num_workers", "0"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert "a fifth of each class held out" in table[0]
    result = json.loads(last)
    assert (result["train_samples"], result["val_samples"]) == (30, 6)
    assert result["baseline"]["checkpoint"] == "random"  # of the run's architecture
    assert main(words) == 2
    assert "--data.root: not given" in capsys.readouterr().err

    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "best.ckpt").write_bytes((run_dir / "checkpoints" / "last.ckpt").read_bytes())
    (run / "config.yaml").write_bytes(config.read_bytes())
    assert main(["probe", "--checkpoint", str(run), "--no-random", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["train_samples"], result["val_samples"], "baseline" in result) == (36, 12, False)
    assert main(["probe", "--checkpoint", "random"]) == 2
    assert "needs another checkpoint, or a --config" in capsys.readouterr().err


def test_command_repeats_itself(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = []
    for _ in range(2):
        assert (
            main(["probe", "--checkpoint", "random", "--config", str(config), "--layer", "mean", "--device", "cpu"])
            == 0
        )
        results.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert {**results[0], "seconds": 0} == {**results[1], "seconds": 0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.bath_size", "9"], "bath_size"),
        (["--data.batch_size", "nine"], "nine"),
        (["--data.root", "/nowhere"], "/nowhere"),
        (["--data.batch_size"], "a value is missing"),
        (["--nonsense", "1"], "--nonsense"),
        (["--device", "abacus"], "abacus"),
        (["--layer", "7"], "layer 7"),
        (["--layer", "top"], "top"),
        (["--checkpoint", "/nowhere/last.ckpt"], "/nowhere/last.ckpt"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_command_names_what_is_wrong(
    words: list[str], message: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", "--checkpoint", "random", "--config", str(config), *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_command_wants_labels_and_a_student(pictures: Path, config: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model: {init_args: {student: null}}")
    words = ["probe", "--checkpoint", "random", "--config", str(config)]
    assert main([*words, "--config", str(overlay)]) == 2
    assert main([*words, "--data.root", str(pictures / "train" / "red")]) == 2
    overlay.write_text("data: {class_path: d2v.nothing.Here}")
    assert main([*words, "--config", str(overlay)]) == 2

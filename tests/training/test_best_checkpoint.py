"""Metrics of probes and of validation decide which checkpoint is the best, and when to stop."""

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from tiny_runs import PictureModule, make_module, make_trainer

from d2v.errors import UserError
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.callbacks.probe import ProbeCallback


class Unlabelled(PictureModule):
    class_names = ()  # type: ignore[assignment]


class Scripted(ProbeCallback):
    """Finds what the test says, one value a probe."""

    values = (50.0, 10.0, 40.0, 30.0, 20.0, 20.0, 20.0)

    def _metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
        return {"probe/linear_top1": self.values[trainer.global_step // 2], "probe/knn_top1": 0.0}


def run(folder: Path, *callbacks: L.Callback, data: PictureModule | None = None, **trainer: object) -> L.Trainer:
    saves = any(isinstance(callback, RunCheckpoint) for callback in callbacks)
    settings = {"max_steps": 12, "enable_checkpointing": saves, **trainer}
    made = make_trainer(folder, callbacks=list(callbacks), **settings)
    made.fit(make_module(), datamodule=data or PictureModule())
    return made


def saved(folder: Path, name: str) -> dict:
    return torch.load(folder / name, weights_only=True)


def test_the_best_by_a_probe_is_the_step_that_was_probed_and_stopping_counts_probes(tmp_path: Path) -> None:
    stopping = EarlyStopping("probe/linear_top1", mode="max", patience=2)
    checkpoint = RunCheckpoint(monitor="probe/linear_top1", dirpath=str(tmp_path))
    theirs = ModelCheckpoint(tmp_path, monitor="probe/linear_top1", mode="max")
    trainer = run(tmp_path, Scripted(2), stopping, checkpoint, theirs)
    # The untrained encoder's 50 neither counts for stopping, nor is it a checkpoint of a run.
    assert trainer.global_step == 8
    assert trainer.callback_metrics["probe/linear_top1"] == 20
    assert saved(tmp_path, "best.ckpt")["global_step"] == 4
    assert saved(tmp_path, "last.ckpt")["global_step"] == 8
    assert theirs.best_model_path.endswith("step=4.ckpt")
    assert checkpoint.described() == "checkpoints/last.ckpt, checkpoints/best.ckpt (probe/linear_top1 40 at step 4)"

    again = RunCheckpoint(monitor="probe/linear_top1", dirpath=str(tmp_path))
    made = make_trainer(tmp_path, callbacks=[Scripted(2), again], max_steps=12, enable_checkpointing=True)
    made.fit(make_module(), datamodule=PictureModule(), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
    assert saved(tmp_path, "best.ckpt")["global_step"] == 4  # what came after was no better


def test_the_best_by_the_loss_of_validation_is_the_lowest(tmp_path: Path) -> None:
    checkpoint = RunCheckpoint(monitor="val/loss", dirpath=str(tmp_path))
    trainer = run(tmp_path, checkpoint, limit_val_batches=1.0, val_check_interval=2, check_val_every_n_epoch=None)
    assert checkpoint.best.value is not None
    assert checkpoint.best.value <= float(trainer.callback_metrics["val/loss"])
    assert saved(tmp_path, "best.ckpt")["global_step"] == checkpoint.best.step


@pytest.mark.parametrize(
    ("monitor", "says"),
    [
        ("probe/linear_top2", "has probe/knn_top1, probe/linear_top1; it does not validate"),
        ("val/loss", "does not validate .trainer.limit_val_batches is 0"),
        ("train/loss", "checkpoint.monitor is train/loss"),
    ],
)
def test_a_metric_that_never_comes_is_an_error_before_the_first_step(tmp_path: Path, monitor: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        run(tmp_path, Scripted(2), RunCheckpoint(monitor=monitor, dirpath=str(tmp_path)))
    if monitor != "train/loss":
        with pytest.raises(UserError, match=f"monitor of EarlyStopping is {monitor}"):
            run(tmp_path, Scripted(2), EarlyStopping(monitor), RunCheckpoint(dirpath=str(tmp_path)))


@pytest.mark.parametrize("monitor", ["linear_top1", "probe_linear_top1"])
def test_a_metric_without_its_prefix_is_one_that_never_comes(tmp_path: Path, monitor: str) -> None:
    with pytest.raises(UserError, match=f"is {monitor}: this run has probe/knn_top1, probe/linear_top1"):
        run(tmp_path, Scripted(2), EarlyStopping(monitor), RunCheckpoint(dirpath=str(tmp_path)))


def test_a_probe_reads_a_set_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"have no labels\. Give it a labelled set: data"):
        run(tmp_path, ProbeCallback(2), data=Unlabelled())
    probe = ProbeCallback(50, linear=False, data=PictureModule(num_samples=24))
    trainer = run(tmp_path, probe, data=Unlabelled(), max_steps=1)
    assert probe.names == ["probe/knn_top1"]
    assert 0 <= trainer.callback_metrics["probe/knn_top1"] <= 100
    with pytest.raises(UserError, match="data is a LightningDataModule"):
        run(tmp_path, ProbeCallback(2, data=L.LightningDataModule()), data=Unlabelled())

"""Whenever a signal comes, a checkpoint is saved that leads to the weights of a run that was never stopped."""

import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from tiny_runs import PictureModule, Pictures, make_module, make_trainer
from torch import Tensor

from d2v.data.broken_samples import SkippedSamples
from d2v.data.data_module import Split
from d2v.data.samples import SampleDataset
from d2v.errors import Interrupted
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.callbacks.probe import ProbeCallback
from d2v.training.module import Data2VecModule
from d2v.training.stop_signals import requeue_job

STEPS, STOPPED = 12, 6


def kill(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.001)  # so that Python gets to its handler


class Stop:
    """Sends a signal, once, where it is told to."""

    def __init__(self, where: str, number: int = signal.SIGTERM) -> None:
        self.where, self.number, self.sent = where, number, 0
        self.trainer: L.Trainer | None = None

    def here(self, where: str) -> None:
        at_step = self.trainer is not None and self.trainer.global_step >= STOPPED
        if where == self.where and at_step and not self.sent:
            self.sent += 1
            kill(self.number)
            if where == "step":  # a queue sends it twice, and it is the same wish
                kill(self.number)


class Data(PictureModule):
    def __init__(self, stop: Stop, **sizes: int) -> None:
        super().__init__(**sizes)
        self.stop = stop

    def train_dataset(self) -> SampleDataset:
        return StoppedPictures(self.stop, self.num_samples)

    def eval_dataset(self, split: Split) -> SampleDataset | None:
        return super().train_dataset()


class StoppedPictures(Pictures):
    def __init__(self, stop: Stop, num_samples: int) -> None:
        super().__init__(num_samples, 3, SkippedSamples(str, num_samples, 0.0))
        self.stop = stop

    def load(self, index: int) -> tuple[Tensor, int | None]:
        self.stop.here("data")
        return super().load(index)


class Watcher(L.Callback):
    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stop.trainer = trainer

    def on_before_zero_grad(self, trainer: L.Trainer, *rest: Any) -> None:
        self.stop.here("step")

    def on_after_backward(self, trainer: L.Trainer, *rest: Any) -> None:
        self.stop.here("micro-batch")

    def on_validation_batch_end(self, trainer: L.Trainer, *rest: Any) -> None:
        self.stop.here("validation")


class StoppedProbe(ProbeCallback):
    def __init__(self, stop: Stop) -> None:
        super().__init__(3, linear=False)
        self.stop = stop

    def _metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
        assert trainer.state.fn == TrainerFn.FITTING
        self.stop.here("probe")
        assert not self.stop.sent, "it should have been given up"
        return super()._metrics(trainer, pl_module)


def train(folder: Path, stop: Stop, ckpt_path: str | None = None) -> Data2VecModule:
    callbacks = [Watcher(stop), StoppedProbe(stop), RunCheckpoint(every_n_train_steps=5, dirpath=str(folder))]
    trainer = make_trainer(
        folder,
        callbacks=callbacks,
        max_steps=STEPS,
        enable_checkpointing=True,
        limit_val_batches=2,
        val_check_interval=6,
        check_val_every_n_epoch=None,
    )
    module = make_module(random=True)
    data = Data(stop, num_samples=20, batch_size=2, global_batch_size=6)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and checkpoint of a run that nothing stops."""
    folder = tmp_path_factory.mktemp("whole")
    state = train(folder, Stop("never")).state_dict()
    return state, torch.load(folder / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("where", ["step", "micro-batch", "validation", "probe", "data"])
def test_a_signal_at_any_moment_loses_nothing(whole: Any, tmp_path: Path, where: str) -> None:
    stop = Stop(where)
    handlers = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"stopped at step \d+; continue with .* --resume \S*/last.ckpt") as stopped:
        train(tmp_path, stop)
    assert signal.getsignal(signal.SIGTERM) == handlers
    assert stop.sent
    assert stopped.value.signal_number == signal.SIGTERM
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    step = saved["global_step"]
    assert STOPPED <= step <= STOPPED + 1, "no later than the end of the step in which it came"

    module = train(tmp_path, Stop("never"), str(tmp_path / "last.ckpt"))
    state, checkpoint = whole
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name
    again = torch.load(tmp_path / "last.ckpt", weights_only=True)
    for ours, theirs in zip(
        again["optimizer_states"][0]["state"].values(), checkpoint["optimizer_states"][0]["state"].values(), strict=True
    ):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    # A validation that was given up is not made up for; at an epoch's border Lightning counts the epoch's start anew.
    for name, value in checkpoint["loops"]["fit_loop"].items():
        if name.startswith("epoch_loop.") and "val_loop" not in name:
            assert again["loops"]["fit_loop"][name] == value, name
    assert again["lr_schedulers"] == checkpoint["lr_schedulers"]


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    class Twice(Stop):
        def here(self, where: str) -> None:
            super().here(where)
            if self.sent == 1:
                self.sent += 1
                kill(self.number)

    with pytest.raises(SystemExit) as stopped:  # Lightning's, of a KeyboardInterrupt
        train(tmp_path, Twice("micro-batch", signal.SIGINT))
    assert isinstance(stopped.value.__context__, KeyboardInterrupt)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_other_commands_stop_at_once(tmp_path: Path, command: str) -> None:
    class Late(L.Callback):
        def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
            self.batches = 0

        def on_validation_batch_end(self, *rest: Any) -> None:
            self.batches += 1
            kill(signal.SIGTERM)

        on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    late = Late()
    trainer = make_trainer(tmp_path, callbacks=[late, RunCheckpoint()], enable_checkpointing=True, limit_val_batches=4)
    run: Callable[..., Any] = getattr(trainer, command)
    with pytest.raises(Interrupted) as stopped:
        run(make_module(), datamodule=PictureModule())
    assert (stopped.value.signal_number, late.batches) == (signal.SIGTERM, 1)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_before_the_first_step_there_is_nothing_to_save(tmp_path: Path) -> None:
    class Early(L.Callback):
        def on_fit_start(self, *rest: Any) -> None:
            kill(signal.SIGTERM)

    trainer = make_trainer(tmp_path, callbacks=[Early(), RunCheckpoint()], enable_checkpointing=True)
    with pytest.raises(Interrupted):
        trainer.fit(make_module(), datamodule=PictureModule())
    assert not list(tmp_path.rglob("*.ckpt"))


def test_under_slurm_the_job_is_requeued_once_the_checkpoint_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = tmp_path / "bin/scontrol"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" $(ls {tmp_path}/run) >> {tmp_path}/asked\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with pytest.raises(Interrupted):
        train(tmp_path / "run", Stop("data", signal.SIGUSR1))
    saved = ["last.ckpt", "step-5.ckpt", f"step-{STOPPED}.ckpt"]
    assert (tmp_path / "asked").read_text().split() == ["requeue", "12", *saved]
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    requeue_job()
    assert (tmp_path / "asked").read_text().splitlines()[-1].startswith("requeue 7_3")
    command.write_text("#!/bin/sh\necho no such job >&2; exit 1\n")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "; rm -rf /")
    requeue_job()


def test_data_that_fail_in_the_middle_of_a_run_leave_the_step_before(tmp_path: Path) -> None:
    class Gone(Pictures):
        def load(self, index: int) -> tuple[Tensor, int | None]:
            if trainer.global_step >= STOPPED:
                raise RuntimeError("the disk is gone")
            return super().load(index)

    class Lost(PictureModule):
        def train_dataset(self) -> SampleDataset:
            return Gone(self.num_samples, self.seed, SkippedSamples(str, self.num_samples, 0.0))

    saving = RunCheckpoint(every_n_train_steps=100, dirpath=str(tmp_path))
    trainer = make_trainer(tmp_path, callbacks=[saving], enable_checkpointing=True)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        trainer.fit(make_module(), datamodule=Lost(num_samples=20, batch_size=2))
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == STOPPED

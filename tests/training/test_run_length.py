"""How long a run is, and that schedules, validation and checkpoints follow it."""

import time
from pathlib import Path

import lightning as L
import pytest
import torch
from tiny_runs import PictureModule, make_module, make_trainer
from torch.utils.data import DataLoader, TensorDataset

from d2v.errors import UserError
from d2v.training.callbacks import run_plan
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.callbacks.run_plan import RunPlan
from d2v.training.run_length import AUTO_LEAST, AUTO_MOST, RunLength, read_length
from d2v.training.schedules import EMADecay, WarmupCosine


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (60, RunLength(steps=60)), ("60", RunLength(steps=60)), ("5,000 steps", RunLength(steps=5000)),
        ("1 step", RunLength(steps=1)), ("100 epochs", RunLength(passes=100)), ("0.5 epoch", RunLength(passes=0.5)),
        ("20 minutes", RunLength(seconds=1200)), ("20min", RunLength(seconds=1200)), ("1.5 h", RunLength(seconds=5400)),
        ("10 sec", RunLength(seconds=10)),
        ("2 Days", RunLength(seconds=172_800)), ("auto", RunLength()),
    ],
)  # fmt: skip
def test_what_lengths_mean(text, meant):
    assert read_length(text) == meant


@pytest.mark.parametrize(
    "text", ["", "0", -5, "long", "5 parsecs", "1.5 steps", "0 epochs", "2 hours 3 epochs", "1..5 h", "3 s"]
)
def test_what_is_no_length(text):
    with pytest.raises(UserError, match=rf"length is {text!r}: give auto, or a number above 0 with its unit, such as"):
        read_length(text)


def test_auto_grows_with_the_data_and_has_bounds():
    steps = [RunLength().in_steps(share) for share in (2.0, 1 / 8, 1 / 100, 1 / 2500, 1e-9)]
    assert steps == sorted(steps)
    assert steps[0] == AUTO_LEAST
    assert steps[-1] == AUTO_MOST
    assert RunLength(passes=3).in_steps(0.4) == 8


class Watch(L.Callback):
    """Steps after which it was validated, and the rates of all."""

    def __init__(self) -> None:
        self.validated: list[int] = []
        self.rates: list[float] = []
        self.decays: list[float] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validated.append(trainer.global_step)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


def fit(folder: Path, plan: RunPlan | None, data: dict | None = None, ckpt_path: Path | None = None, **trainer):
    """32 pictures in batches of 8."""
    watch = Watch()
    callbacks = [watch, *trainer.pop("callbacks", [])]
    if plan is not None:
        callbacks = [plan, *callbacks]
    module = make_module(ema=EMADecay(0.5, 0.9, 0.5), schedule=WarmupCosine(0.25))
    settings = {"max_steps": -1, "limit_val_batches": 1, **trainer}
    run = make_trainer(folder, callbacks=callbacks, **settings)
    run.fit(module, datamodule=PictureModule(**(data or {})), ckpt_path=ckpt_path, weights_only=True)
    return run, watch


def plan_of(trainer: L.Trainer) -> RunPlan:
    return next(callback for callback in trainer.callbacks if isinstance(callback, RunPlan))


def test_the_first_limit_ends_the_run_and_its_schedule(tmp_path):
    """4 micro-batches an epoch, two of them a step."""
    data = {"global_batch_size": 16}
    trainer, watch = fit(tmp_path, None, data, max_steps=100, max_epochs=3, limit_val_batches=0)
    assert trainer.global_step == plan_of(trainer).total_steps == 6
    peak = 3e-3
    assert watch.rates == pytest.approx([peak * WarmupCosine(0.25).factor(step, 6) for step in range(6)])
    assert plan_of(fit(tmp_path, None, data, max_steps=2, max_epochs=3)[0]).total_steps == 2
    limited, _ = fit(tmp_path, None, data, max_epochs=3, limit_train_batches=2)
    assert limited.global_step == plan_of(limited).total_steps == 3


def test_passes_over_the_data(tmp_path):
    trainer, _ = fit(tmp_path, RunPlan("2.5 epochs"), limit_val_batches=0)
    assert trainer.global_step == 10
    few, _ = fit(tmp_path, RunPlan("4 epochs"), {"num_samples": 4}, limit_val_batches=0)
    assert few.global_step == 2, "a batch of 8 holds 4 pictures twice"


def test_data_from_elsewhere_tell_their_size_by_the_loader(tmp_path):
    class Plain(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch, _):
            return self.layer(batch[0]).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    rows = TensorDataset(torch.zeros(10, 1))
    trainer = make_trainer(tmp_path, max_steps=-1, callbacks=[RunPlan("3 epochs")])
    trainer.fit(Plain(), DataLoader(rows, batch_size=4))
    assert trainer.global_step == 9
    trainer = make_trainer(tmp_path, max_steps=9, callbacks=[RunPlan()])
    with pytest.raises(UserError, match="the training data give no batch"):
        trainer.fit(Plain(), DataLoader(rows, batch_size=16, drop_last=True))


def test_it_is_validated_by_shares_and_at_the_end(tmp_path):
    """Over the borders of epochs and with accumulation."""
    data = {"global_batch_size": 16}
    settings = {"val_check_interval": 2**62, "check_val_every_n_epoch": None}
    _, watch = fit(tmp_path, RunPlan("11 steps", 0.25), data, **settings)
    assert watch.validated == [3, 6, 9, 11]
    _, watch = fit(tmp_path, RunPlan("5 steps", 2), data, **settings)
    assert watch.validated == [2, 4, 5]


def test_checkpoints_by_shares(tmp_path):
    saving = RunCheckpoint(0.25, keep=-1, dirpath=str(tmp_path / "checkpoints"))
    trainer, _ = fit(tmp_path, RunPlan(8), callbacks=[saving], enable_checkpointing=True, limit_val_batches=0)
    assert trainer.global_step == 8
    saved = {path.name for path in (tmp_path / "checkpoints").glob("step-*.ckpt")}
    assert saved == {f"step-{step}.ckpt" for step in (2, 4, 6, 8)}
    with pytest.raises(UserError, match=r"checkpoint\.every_n_train_steps is 0"):
        RunCheckpoint(0)


class Clock(L.Callback):
    """In place of the module ``time``: training takes so many seconds a step, and nothing else takes any."""

    time, strftime, localtime = time.time, time.strftime, time.localtime

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, 100.0

    def monotonic(self) -> float:
        return self.now

    def on_train_batch_start(self, *_) -> None:
        self.now += self.seconds


def test_a_time_becomes_steps_which_a_resume_keeps(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    saving = RunCheckpoint(20, keep=-1, dirpath=str(tmp_path / "checkpoints"))
    monkeypatch.setattr(run_plan, "time", clock := Clock(2.0))
    trainer, watch = fit(
        tmp_path, RunPlan("2 minutes"), callbacks=[clock, saving], enable_checkpointing=True, limit_val_batches=0
    )
    assert trainer.global_step == plan_of(trainer).total_steps == 60
    assert "0:02:00 h at 2 s a step are 60 steps" in caplog.text
    assert "2 s a step: the end is expected in 0:01:40 h" in caplog.text
    assert watch.rates[40:] == pytest.approx([3e-3 * WarmupCosine(0.25).factor(step, 60) for step in range(40, 60)])

    monkeypatch.setattr(run_plan, "time", clock := Clock(9.0))
    file = tmp_path / "checkpoints" / "step-40.ckpt"
    again, slower = fit(tmp_path, RunPlan("2 minutes"), ckpt_path=file, limit_val_batches=0, callbacks=[clock])
    assert again.global_step == 60
    assert slower.rates == watch.rates[40:]
    longer, _ = fit(tmp_path, RunPlan("3 minutes"), ckpt_path=file, limit_val_batches=0, callbacks=[clock])
    assert longer.global_step == 90


def test_validation_and_probes_count_in(tmp_path, monkeypatch):
    class Probe(L.Callback):
        every_n_steps = 0.25

        def on_train_start(self, *_) -> None:
            clock.now += 12.0

    monkeypatch.setattr(run_plan, "time", clock := Clock(2.0))
    settings = {"val_check_interval": 2**62, "check_val_every_n_epoch": None, "limit_val_batches": 3}
    plan = RunPlan("4 minutes", 0.1)
    trainer, _ = fit(tmp_path, plan, callbacks=[clock, Probe()], **settings)
    # 240 s less the probe of before, ten validations of 3 forward passes (2/3 s each) and four probes: 160 s
    assert 78 <= trainer.global_step <= 84


def test_slow_validations_leave_time_to_train(tmp_path, monkeypatch):
    class Slow(L.Callback):
        count = 0

        def on_validation_end(self, *_) -> None:
            clock.now += 7.0
            self.count += 1

    monkeypatch.setattr(run_plan, "time", clock := Clock(1.0))
    settings = {"val_check_interval": 2**62, "check_val_every_n_epoch": None, "limit_val_batches": 1}
    slow = Slow()
    trainer, _ = fit(tmp_path, RunPlan("2 minutes", 0.05), callbacks=[clock, slow], **settings)
    assert trainer.global_step >= 50
    assert 2 <= slow.count <= 10
    assert clock.now - 100 <= 130


def test_a_time_limit_of_the_trainer_ends_the_schedule_too(tmp_path, monkeypatch):
    monkeypatch.setattr(run_plan, "time", clock := Clock(1.0))
    trainer, watch = fit(
        tmp_path, None, max_time={"seconds": 40}, max_steps=1_000_000, limit_val_batches=0, callbacks=[clock]
    )
    assert trainer.global_step == plan_of(trainer).total_steps == 40
    assert watch.rates[-1] < 1e-4


def said(tmp_path, caplog, length, data=None, **module) -> str:
    caplog.clear()
    trainer = make_trainer(tmp_path, callbacks=[RunPlan(length), Stop()])
    trainer.fit(make_module(**module), datamodule=PictureModule(**(data or {})))
    return caplog.text


class Stop(L.Callback):
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.fit_loop.epoch_loop.max_steps = 1


def test_what_makes_no_sense_is_said_before_the_first_step(tmp_path, caplog):
    caplog.set_level("INFO")
    fine = {"ema": EMADecay(0.9, 0.99, 0.5), "schedule": WarmupCosine(0.1)}
    text = said(tmp_path, caplog, 200, **fine)
    assert "plan: 200 steps = 50 epochs of 32 samples; warm-up 20 steps, EMA anneal 100 steps" in text
    assert "warning" not in text

    slow = {**fine, "ema": EMADecay(0.9998, 0.99999, 0.266454)}
    text = said(tmp_path, caplog, 60, **slow)
    assert "the teacher averages over 5,000 at first, 100,000 after the anneal of 16: 100% of the teacher would" in text
    assert "warm-up 6 steps, EMA anneal 16 steps" in text

    long = {**fine, "schedule": WarmupCosine(300)}
    text = said(tmp_path, caplog, 60, **long)
    assert "model.schedule.warmup is 300 steps, and the run has 60: the learning rate would reach 0.2 of" in text
    with pytest.raises(UserError, match=r"warmup is 50,040 steps, and the run has 60: .* 0\.0012 of its peak"):
        said(tmp_path, caplog, 60, **{**fine, "schedule": WarmupCosine(50_040)})

    text = said(tmp_path, caplog, 375_300, {"num_samples": 4}, **fine)
    assert "375,300 steps are 750,600 passes over 4 samples" in text
    assert f"--length auto would be {AUTO_LEAST:,} steps" in text

    trainer = make_trainer(tmp_path, limit_train_batches=0)
    with pytest.raises(UserError, match="the run has no step"):
        trainer.fit(make_module(), datamodule=PictureModule())

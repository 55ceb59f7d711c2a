"""The monitor in real runs: what it says, once, and where; how it stops a run; that a run with it goes on as before."""

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from tiny_runs import PictureModule, Pictures, make_module, make_trainer, weights

from d2v import metrics
from d2v.monitoring.faults import find_faults
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.callbacks.collapse import CollapseCallback
from d2v.training.callbacks.monitor import Monitor
from d2v.training.schedules import WarmupCosine
from d2v.verdicts import History, Verdict


def fit(
    folder: Path, module: L.LightningModule, monitor: Monitor, ckpt: str | None = None, **changes: Any
) -> L.Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    callbacks = [monitor, *changes.pop("callbacks", [])]
    logger = changes.pop("logger", CSVLogger(str(folder), "", ""))
    trainer = make_trainer(folder, callbacks=callbacks, logger=logger, **changes)
    trainer.fit(module, datamodule=PictureModule(), ckpt_path=ckpt, weights_only=True)
    return trainer


def said(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]


def from_step(step: int) -> Callable[[History], list[Verdict]]:
    """A judge that finds the same fault at each step from this one on."""

    def judge(history: History) -> list[Verdict]:
        return [Verdict(history.step, "odd", "it is odd", "1 is odd", "Take 2")] if history.step >= step else []

    return judge


def test_it_reads_what_is_logged_at_least_every_ten_steps_and_says_a_fault_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = Monitor(from_step(10), tmp_path)
    fit(tmp_path, make_module(), monitor, max_steps=30, log_every_n_steps=50)
    assert [step for step, _ in monitor.history.rows] == [10, 20, 30]
    assert [text for text in caplog.messages if "odd" in text] == ["monitor: step 10: it is odd: 1 is odd. Take 2"]
    assert said(tmp_path) == [{"step": 10, "fault": "odd", "what": "it is odd", "why": "1 is odd", "cure": "Take 2"}]
    with (tmp_path / "metrics.csv").open() as file:
        rows = {int(row["step"]) + 1: row for row in csv.DictReader(file)}
    for step, row in monitor.history.rows:
        assert row[metrics.UPDATE_SIZE] == pytest.approx(float(rows[step][metrics.UPDATE_SIZE]))
        assert row[metrics.LEARNING_RATE] == pytest.approx(float(rows[step][metrics.LEARNING_RATE]))


def test_a_teacher_that_stands_and_a_rate_without_warm_up_are_found_in_a_run(tmp_path: Path) -> None:
    module = make_module(schedule=WarmupCosine(0))
    module.method.move_teacher = lambda decay: None  # type: ignore[method-assign]
    fit(tmp_path, module, Monitor(find_faults, tmp_path), max_steps=220, log_every_n_steps=50)
    assert {"teacher-still", "no-warmup"} <= {verdict["fault"] for verdict in said(tmp_path)}


def test_the_update_and_the_teachers_way_are_those_of_the_weights(tmp_path: Path) -> None:
    """Of some of the weights, and here of nearly all."""
    kept: list[Any] = []

    class Keep(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, module: Any, optimizer: Any) -> None:
            kept[:] = [_matrices(module.method.student), _matrices(module.method.teacher.encoder)]

    module, monitor = make_module(), Monitor(from_step(99), tmp_path)
    fit(tmp_path, module, monitor, max_steps=3, log_every_n_steps=3, callbacks=[Keep()])
    row = monitor.history.rows[-1][1]
    student, teacher = _matrices(module.method.student), _matrices(module.method.teacher.encoder)
    assert row[metrics.WEIGHT_SIZE] == pytest.approx(float(student.square().mean().sqrt()), rel=0.05)
    moved = (student - kept[0]).norm() / student.norm()
    assert row[metrics.UPDATE_SIZE] == pytest.approx(float(moved), rel=0.05)
    assert row[metrics.TEACHER_DISTANCE] == pytest.approx(float((student - teacher).norm() / student.norm()), rel=0.05)
    assert row[metrics.TEACHER_RATE] == pytest.approx(1 - row[metrics.EMA_DECAY], rel=1e-2)


def _matrices(module: torch.nn.Module) -> torch.Tensor:
    found = []
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1 and "positions" not in name:  # which are fixed
            found.append(parameter.detach().flatten().clone())
    return torch.cat(found)


def test_stop_saves_the_run_and_ends_it(tmp_path: Path) -> None:
    checkpoint = RunCheckpoint(every_n_train_steps=1000, dirpath=str(tmp_path / "checkpoints"))
    monitor = Monitor(from_step(4), tmp_path, "stop")
    with pytest.raises(RuntimeError, match=r"step 4: it is odd: 1 is odd\. Take 2\. .*on_fault is stop") as error:
        fit(tmp_path, make_module(), monitor, log_every_n_steps=2, callbacks=[checkpoint], enable_checkpointing=True)
    assert f"--resume {tmp_path} --on_fault warn" in error.value.__notes__[0]
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 5


def test_a_run_that_goes_on_says_nothing_twice_and_learns_the_same(tmp_path: Path) -> None:
    def run(name: str, ckpt: str | None) -> tuple[dict[str, torch.Tensor], Monitor]:
        folder, module = tmp_path / name, make_module(random=True)
        checkpoint = RunCheckpoint(every_n_train_steps=7, dirpath=str(folder), keep=-1)
        monitor = Monitor(from_step(4), folder)
        fit(folder, module, monitor, ckpt, log_every_n_steps=2, callbacks=[checkpoint], enable_checkpointing=True)
        return weights(module), monitor

    whole, monitor = run("a", None)
    assert len(said(tmp_path / "a")) == 1
    verdicts = tmp_path / "a" / "verdicts.jsonl"
    verdicts.write_text(verdicts.read_text() + json.dumps({"step": 12, "fault": "later"}) + "\n")
    again, resumed = run("a", str(tmp_path / "a" / "step-7.ckpt"))
    assert [verdict["step"] for verdict in said(tmp_path / "a")] == [4]  # what was said later is going to be said again
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert [step for step, _ in resumed.history.rows] == [step for step, _ in monitor.history.rows]
    assert resumed.state_dict() == monitor.state_dict()  # without times, which no two runs share


def test_weights_and_biases_is_told(tmp_path: Path) -> None:
    class Run:
        alerts: list[tuple[str, str]] = []
        summary: dict[str, Any] = {}

        def alert(self, title: str, text: str) -> None:
            self.alerts.append((title, text))

    logger = WandbLogger(offline=True, save_dir=tmp_path)
    logger._experiment = Run()  # type: ignore[assignment]
    monitor = Monitor(from_step(0), tmp_path)
    monitor.report(make_trainer(tmp_path, logger=logger), from_step(0)(History())[0])
    assert Run.alerts == [("it is odd (odd)", "step 0: it is odd: 1 is odd. Take 2")]


def test_the_monitor_tells_of_a_collapse_that_the_run_is_watched_for(tmp_path: Path) -> None:
    monitor = Monitor(from_step(99), tmp_path)
    trainer = make_trainer(tmp_path, callbacks=[monitor])
    watch = CollapseCallback(make_module().collapse)
    for value in (0.9, 0.05):
        values = {metrics.TARGET_STD: value, metrics.PREDICTION_STD: 0.5, metrics.TARGET_RANK: 30.0}
        watch._warn_of_fall(trainer, "", values)
    (verdict,) = said(tmp_path)
    assert verdict["fault"] == "collapse"
    assert verdict["why"] == "train/target_std is 0.05 and was 0.9"


def test_time_that_training_waits_for_data_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Pictures.load

    def slowly(self: Pictures, index: int) -> Any:
        time.sleep(0.05)
        return load(self, index)

    shares = []
    for name in ("fast", "slow"):
        monitor = Monitor(from_step(99), tmp_path)
        fit(tmp_path / name, make_module(), monitor, max_steps=6, log_every_n_steps=2)
        shares.append(monitor.history.rows[-1][1][metrics.WAIT_FRACTION])
        monkeypatch.setattr(Pictures, "load", slowly)
    assert 2 * shares[0] < shares[1] < 1

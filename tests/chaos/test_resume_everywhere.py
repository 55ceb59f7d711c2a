"""A run may go on from any of its steps, wherever epochs, validation, probes and micro-batches fall.

One run saves each of its steps; from each of them another one trains a few steps, and must save the same. The settings
are drawn: `make chaos` tries many, the tests of every day one.
"""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from full_count import CHAOS, RESUMED_RUNS
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_runs import PictureModule, make_module, make_trainer

from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.callbacks.probe import ProbeCallback

STEPS, AFTERWARDS = 14, 3
# An epoch ends with step 5 in the middle of what is between two validations.
AT_AN_EPOCHS_END: dict[str, Any] = {
    "kind": "2.0",
    "num_samples": 20,
    "accumulation": 2,
    "val_check_interval": 20,
    "check_val_every_n_epoch": None,
    "limit_val_batches": 1,
    "probe_every": 100,
    "precision": "32-true",
    "num_workers": 0,
}


class StopAt(L.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *rest: Any) -> None:
        if trainer.global_step == self.step and not trainer.fit_loop._should_accumulate():
            trainer.should_stop = True


def drawn_settings(seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    accumulation = draw.choice([1, 2, 2, 4])
    settings: dict[str, Any] = {
        "kind": draw.choice(["1.0", "2.0"]),
        "num_samples": draw.randint(12, 24),
        "accumulation": accumulation,
        "val_check_interval": 1.0,
        "check_val_every_n_epoch": draw.choice([1, 2]),
        "limit_val_batches": draw.choice([0, 1]),
        "probe_every": draw.choice([100, 5]),
        "precision": draw.choice(["32-true", "bf16-mixed"]),
        "num_workers": draw.choice([0, 0, 0, 2]),
    }
    if draw.random() < 0.7:  # what `--validate_every` makes of itself
        settings |= {"val_check_interval": draw.randint(1, 12), "check_val_every_n_epoch": None}
    return settings


def train(folder: Path, settings: dict[str, Any], start: Path | None, stop: int, saving: L.Callback) -> None:
    trainer = make_trainer(
        folder,
        callbacks=[ProbeCallback(settings["probe_every"], max_samples=8, linear=False), saving, StopAt(stop)],
        max_steps=STEPS,
        enable_checkpointing=True,
        limit_val_batches=settings["limit_val_batches"],
        val_check_interval=settings["val_check_interval"],
        check_val_every_n_epoch=settings["check_val_every_n_epoch"],
        precision=settings["precision"],
    )
    data = PictureModule(settings["num_samples"], batch_size=2, global_batch_size=2 * settings["accumulation"])
    data.num_workers = settings["num_workers"]
    trainer.fit(make_module(settings["kind"], random=True), datamodule=data, ckpt_path=start, weights_only=True)


def saved(path: Path) -> dict[str, Any]:
    """What decides how a run goes on; Lightning's counters may tell the same in two ways."""
    stored = torch.load(path, weights_only=True)
    return {
        key: stored[key] for key in ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "PictureModule")
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(*pair) for pair in zip(a, b, strict=True))
    return bool(a == b)


def differences(folder: Path, settings: dict[str, Any], steps: Iterable[int]) -> list[str]:
    whole = folder / "whole"
    train(whole, settings, None, STEPS, RunCheckpoint(1, keep=-1, dirpath=str(whole)))
    found = []
    for step in steps:
        again, end = folder / str(step), min(step + AFTERWARDS, STEPS)
        train(again, settings, whole / f"step-{step}.ckpt", end, RunCheckpoint(1, keep=-1, dirpath=str(again)))
        for later in range(step + 1, end + 1):
            name = f"step-{later}.ckpt"
            if not same(saved(whole / name), saved(again / name)):
                found.append(f"from {step}: {name}")
    return found


def test_the_end_of_an_epoch_leads_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    assert differences(tmp_path, AT_AN_EPOCHS_END, [4, 5]) == []


@pytest.mark.skipif(not CHAOS, reason="of `make chaos`")
@pytest.mark.parametrize("seed", range(RESUMED_RUNS))
def test_every_step_leads_on_as_if_nothing_had_been(tmp_path: Path, seed: int) -> None:
    settings = drawn_settings(seed)
    assert differences(tmp_path, settings, range(1, STEPS)) == [], settings


def test_plain_checkpoints_lose_half_a_step(tmp_path: Path) -> None:
    """The control: Lightning's own callback, where an epoch ends and validation goes by batches."""
    plain = {"every_n_train_steps": 1, "save_top_k": -1, "monitor": "step", "mode": "max"}
    for folder, start in (("whole", None), ("again", tmp_path / "whole" / "step=5.ckpt")):
        saving: Any = ModelCheckpoint(tmp_path / folder, "{step}", **plain)
        train(tmp_path / folder, AT_AN_EPOCHS_END, start, 6, saving)
    ends = [saved(tmp_path / folder / "step=6.ckpt") for folder in ("whole", "again")]
    assert not same(*ends)

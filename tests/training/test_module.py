"""The LightningModule under Lightning's own loop: the EMA clock, accumulation, processes, resuming, logging."""

import csv
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tiny_runs import PictureModule, Pictures, largest_difference, make_module, make_trainer, weights
from torch import Tensor

from d2v.errors import UserError
from d2v.model.masking import Masking
from d2v.training.callbacks import throughput
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.callbacks.ema_teacher import EMATeacherCallback
from d2v.training.callbacks.throughput import ThroughputCallback
from d2v.training.module import Data2VecModule
from d2v.training.schedules import EMADecay, WarmupCosine
from d2v.types import Batch, Mask

# The names of design.md, section 6, that pictures have and this module writes itself. (The probes come with parts of
# their own, and throughput/mfu in the third minute of a run on a CPU.)
LOGGED = {
    *(f"train/{name}" for name in ("loss", "regression_loss", "cls_loss", "target_std", "prediction_std", "grad_norm")),
    *(
        f"train/{name}"
        for name in ("target_effective_rank", "extractor_effective_rank", "masked_fraction", "ema_decay", "lr")
    ),
    "throughput/images_per_second",
    "data/skipped",
    "val/loss",
}
KINDS = ["1.0", "2.0"]


class Seen(L.Callback):
    """Records the samples and the losses."""

    def __init__(self) -> None:
        self.samples: list[list[tuple[int, int]]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.samples.append(list(zip(batch.epochs.tolist(), batch.sample_ids.tolist(), strict=True)))
        self.losses.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)


def fit(folder: Path, kind: str = "2.0", random: bool = False, data: dict | None = None, module: dict | None = None,
        ckpt_path: Path | None = None, **trainer: Any) -> tuple[Data2VecModule, L.Trainer]:  # fmt: skip
    made = make_module(kind, random, **(module or {}))
    runner = make_trainer(folder, **trainer)
    runner.fit(made, datamodule=PictureModule(**(data or {})), ckpt_path=None if ckpt_path is None else str(ckpt_path))
    return made, runner


# The clock of the EMA


def test_the_teacher_moves_once_an_optimizer_step(tmp_path, monkeypatch):
    module = make_module(ema=EMADecay(0.5, 0.9, 4), schedule=WarmupCosine())
    moves: list[float] = []
    micro_batches: list[Tensor] = []
    update = module.method.teacher.update

    def spy(student, decay):
        before = {k: v.clone() for k, v in module.method.teacher.state_dict().items()}
        update(student, decay)
        moves.append(decay)
        for name, value in module.method.teacher.state_dict().items():
            expected = decay * before[name] + (1 - decay) * student.state_dict()[name.removeprefix("encoder.")]
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)

    monkeypatch.setattr(module.method.teacher, "update", spy)

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            micro_batches.append(module.method.teacher.encoder.trunk.blocks[0].mlp[0].weight.clone())

    trainer = make_trainer(tmp_path, max_steps=5, callbacks=[Watch()])
    trainer.fit(module, datamodule=PictureModule(num_samples=13, batch_size=2, global_batch_size=6))
    assert trainer.accumulate_grad_batches == 3
    assert len(micro_batches) == 15
    assert moves == pytest.approx([0.6, 0.7, 0.8, 0.9, 0.9]), "decays of optimizer steps 1 to 5"
    stands = [torch.equal(a, b) for a, b in itertools.pairwise(micro_batches)]
    assert stands == ([True, True, False] * 5)[:14], "it stands still while gradients are accumulated"


@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_equals_a_larger_batch(tmp_path, kind):
    seen = [Seen(), Seen()]
    start = weights(make_module(kind))
    large, _ = fit(tmp_path, kind, data={"num_samples": 50, "batch_size": 8}, callbacks=[seen[0]])
    small, trainer = fit(
        tmp_path, kind, data={"num_samples": 50, "batch_size": 4, "global_batch_size": 8}, callbacks=[seen[1]]
    )
    assert trainer.accumulate_grad_batches == 2
    assert trainer.global_step == 20
    halves = seen[1].samples
    assert seen[0].samples == [a + b for a, b in zip(halves[::2], halves[1::2], strict=True)]
    assert largest_difference(weights(large), start) > 0.01, "the run must have moved the weights"
    difference = largest_difference(weights(large), weights(small))
    print(f"accumulation, {kind}: {difference:.2e}")
    assert difference < 1e-5


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """The weights of each rank after 20 steps on two gloo processes under plain DDP, for each kind."""
    folder = tmp_path_factory.mktemp("ddp")
    jobs = [
        {
            "output": str(folder / kind),
            "kind": kind,
            "data": {"num_samples": 50, "batch_size": 2, "global_batch_size": 8},
        }
        for kind in KINDS
    ]
    jobs.append({**jobs[0], "output": str(folder / "broken"), "broken": True})
    script = Path(__file__).parent / "tiny_runs.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(jobs)], capture_output=True, text=True, env=environment, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert "find_unused_parameters" not in done.stderr
    (folder / "stderr").write_text(done.stderr)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one(tmp_path, two_processes, kind):
    """Two devices x 2 pictures x 2 accumulated are one device x 8 pictures: student, teacher and head."""
    ranks = [torch.load(two_processes / f"{kind}.{rank}", weights_only=True) for rank in range(2)]
    assert largest_difference(*ranks) == 0
    one, trainer = fit(tmp_path, kind, data={"num_samples": 50, "batch_size": 8})
    assert any(name.startswith("method.teacher.") for name in ranks[0])
    difference = largest_difference(ranks[0], weights(one))
    print(f"two processes, {kind}: {difference:.2e}")
    assert difference < 1e-5
    logged = [torch.load(two_processes / f"{kind}.metrics.{rank}", weights_only=True) for rank in range(2)]
    for metric, value in trainer.callback_metrics.items():
        if metric.startswith("train/"):
            assert float(logged[0][metric]) == pytest.approx(float(value), rel=1e-4), metric
    for metric in ("loss", "grad_norm", "target_std", "prediction_std", "masked_fraction", "regression_loss"):
        assert logged[1][f"train/{metric}"] == logged[0][f"train/{metric}"]


def test_processes_skip_an_update_together(two_processes):
    """A loss that is not finite on one of them, which names its samples."""
    said = (two_processes / "stderr").read_text()
    assert said.count("this update is skipped (1 so far): each of its samples, ") == said.count("is skipped") == 1
    ranks = [torch.load(two_processes / f"broken.{rank}", weights_only=True) for rank in range(2)]
    assert [torch.load(two_processes / f"broken.skipped.{rank}") for rank in range(2)] == [1, 1]
    assert largest_difference(*ranks) == 0
    assert all(value.isfinite().all() for value in ranks[0].values())


# Resuming


@pytest.mark.parametrize("where", ["mid_epoch", "epoch_end"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(tmp_path, kind, where):
    """With dropout, stochastic depth, decoder noise, augmentation and accumulation; epochs of 3 or of 5 steps."""
    data = {"num_samples": {"mid_epoch": 14, "epoch_end": 20}[where], "batch_size": 2, "global_batch_size": 4}
    seen = [Seen(), Seen()]
    checkpoint = RunCheckpoint(every_n_train_steps=5, keep=-1, dirpath=str(tmp_path / "checkpoints"))
    straight, trainer = fit(
        tmp_path, kind, True, data, max_steps=10, callbacks=[checkpoint, seen[0]], enable_checkpointing=True
    )
    file = tmp_path / "checkpoints" / "step-5.ckpt"
    torch.rand(7)  # what ran before must not matter
    resumed, again = fit(tmp_path, kind, True, data, ckpt_path=file, max_steps=10, callbacks=[seen[1]])
    assert again.global_step == trainer.global_step == 10
    assert len(seen[1].samples) == 10
    assert seen[1].samples == seen[0].samples[10:]
    assert seen[1].losses == seen[0].losses[10:]
    assert largest_difference(weights(straight), weights(resumed)) == 0
    states = [t.optimizers[0].state_dict() for t in (trainer, again)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for number, state in states[0]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, states[1]["state"][number][key]), (number, key)


def test_each_step_and_micro_batch_has_randomness_of_its_own(tmp_path, monkeypatch):
    """Equal pictures, masks and weights: another loss in each micro-batch of a run, the same in a second run."""
    monkeypatch.setattr(Pictures, "noise", 0.0)
    losses = []
    for _ in range(2):
        seen = Seen()
        fit(
            tmp_path,
            random=True,
            data={"num_samples": 1, "batch_size": 1, "global_batch_size": 2},
            max_steps=4,
            callbacks=[seen],
            module={"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.0), "masking": _SameMask()},
        )
        losses.append(seen.losses)
        torch.rand(3)
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 8


class _SameMask(Masking):
    """Leaves dropout, stochastic depth and the decoder's noise as the only things that change."""

    def forward(self, batch, grid, num_masks, seed, padding_mask=None):
        masked = (torch.arange(16) % 2 == 0).expand(len(batch.inputs) * num_masks, -1)
        return Mask.from_dense(masked, 8, num_masks)


# What Lightning may not get wrong


def test_the_optimizer_holds_the_student_and_the_head_and_nothing_of_the_teacher(tmp_path):
    module, trainer = fit(tmp_path, max_steps=1)
    (optimizer,) = trainer.optimizers
    names = {id(p): name for name, p in module.named_parameters()}
    decay, no_decay = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert set(decay) | set(no_decay) == trained
    assert len(decay) + len(no_decay) == len(trained)
    assert not any("teacher" in name for name in trained)
    assert optimizer.param_groups[0]["weight_decay"] == 0.05
    assert optimizer.param_groups[1]["weight_decay"] == 0
    assert not any(name.endswith(("bias", "cls_token", "mask_token")) or "norm" in name for name in decay)
    assert all(name.endswith("weight") for name in decay)
    assert len(decay) > 8
    assert "method.student.front.positions.table" not in trained
    assert optimizer.state.keys() <= {p for p in module.parameters() if p.requires_grad}


def test_the_teacher_stays_in_eval_mode_and_without_gradients_through_fit_and_validation(tmp_path):
    modes = []

    class Watch(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            teacher = pl_module.method.teacher
            modes.append(any(m.training for m in teacher.encoder.modules()))
            modes.append(any(p.grad is not None for p in teacher.parameters()))
            modes.append(not pl_module.method.student.trunk.blocks[0].training)

    fit(tmp_path, random=True, data={"num_samples": 16}, max_steps=6, limit_val_batches=1, callbacks=[Watch()])
    assert len(modes) == 18
    assert not any(modes)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_runs_and_keeps_everything_in_fp32(tmp_path, kind):
    seen = Seen()
    start = weights(make_module(kind))
    module, _trainer = fit(tmp_path, kind, max_steps=5, precision="bf16-mixed", callbacks=[seen])
    assert all(value.dtype == torch.float32 for value in module.state_dict().values())
    assert all(torch.tensor(seen.losses).isfinite())
    moved = weights(module)
    assert all(value.isfinite().all() for value in moved.values())
    teacher = {name: value for name, value in moved.items() if "teacher" in name}
    assert sum(int((value != start[name]).sum()) for name, value in teacher.items()) > 1000
    exact, _ = fit(tmp_path, kind, max_steps=5)
    assert largest_difference(moved, weights(exact)) < 0.02


def test_every_promised_name_is_in_metrics_csv_on_the_axis_of_optimizer_steps(tmp_path):
    class Own(L.Callback):
        pass

    logger = CSVLogger(tmp_path, name="", version="")
    module, trainer = fit(
        tmp_path, data={"num_samples": 32, "batch_size": 4, "global_batch_size": 8}, max_steps=8, log_every_n_steps=2,
        logger=logger, limit_val_batches=2, callbacks=[Own()],
    )  # fmt: skip
    for kind in (Own, EMATeacherCallback, ThroughputCallback):
        assert sum(isinstance(callback, kind) for callback in trainer.callbacks) == 1, kind
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    found = {name for row in rows for name, value in row.items() if value}
    assert found >= LOGGED, LOGGED - found
    steps = sorted({int(row["step"]) for row in rows if row["train/loss"]})
    assert steps == [1, 3, 5, 7]  # Lightning's 0-based numbers of steps 2, 4, 6, 8
    at = {int(row["step"]): row for row in rows if row["train/masked_fraction"]}
    assert float(at[7]["train/masked_fraction"]) == pytest.approx(0.75)  # int(0.3 * 16) = 4 of 16 are kept
    assert float(at[7]["train/lr"]) < 3e-3
    decays = [float(row["train/ema_decay"]) for row in rows if row["train/ema_decay"]]
    assert decays == pytest.approx([module.ema.at(step, 8) for step in (2, 4, 6, 8)])
    for row in rows:
        assert all(torch.tensor(float(value)).isfinite() for value in row.values() if value)
        if row["train/regression_loss"]:
            total = float(row["train/regression_loss"]) + float(row["train/cls_loss"])
            assert float(row["train/loss"]) == pytest.approx(total, rel=1e-5)


def test_a_users_callbacks_do_not_displace_those_of_the_method(tmp_path):
    module = make_module()
    start = weights(module)
    trainer = make_trainer(tmp_path, max_steps=2, callbacks=[])
    trainer.fit(module, datamodule=PictureModule())
    moved = weights(module)
    assert any(not torch.equal(moved[name], start[name]) for name in moved if "teacher" in name)


# Starting from another run


def test_init_from_starts_from_the_weights_of_another_run(tmp_path):
    checkpoint = RunCheckpoint(every_n_train_steps=2, dirpath=str(tmp_path / "checkpoints"))
    done, _ = fit(tmp_path, max_steps=2, callbacks=[checkpoint], enable_checkpointing=True)
    fresh = weights(make_module())
    assert largest_difference(weights(done), fresh) > 1e-4
    started = make_module(init_from=str(tmp_path / "checkpoints" / "last.ckpt"))
    assert largest_difference(weights(started), weights(done)) == 0


def test_predict_gives_features(tmp_path):
    module = make_module()
    data = PictureModule(num_samples=10, batch_size=4)
    features = torch.cat(make_trainer(tmp_path, limit_val_batches=1.0).predict(module, datamodule=data))
    assert features.shape == (10, 16)
    inputs = torch.stack([data.eval_dataset("val")[(0, i)].inputs for i in range(10)])
    torch.testing.assert_close(features, module.method.student.eval().embed(inputs))


def test_a_resumed_run_takes_its_learning_rate_and_decay_from_the_config(tmp_path: Path) -> None:
    def adamw(lr: float, weight_decay: float):
        return lambda groups: torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)

    _, trainer = fit(tmp_path / "a", max_steps=4, module={"optimizer": adamw(1e-3, 0.05)})
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    changed = {"optimizer": adamw(5e-4, 0.01)}
    _, resumed = fit(tmp_path / "b", max_steps=8, module=changed, ckpt_path=tmp_path / "half.ckpt")
    decay, no_decay = resumed.optimizers[0].param_groups
    assert (decay["initial_lr"], decay["weight_decay"], no_decay["weight_decay"]) == (5e-4, 0.01, 0.0)
    schedule = resumed.lr_scheduler_configs[0].scheduler
    assert schedule.base_lrs == [5e-4, 5e-4]
    assert decay["lr"] == 5e-4 * schedule.lr_lambdas[0](8)
    another = {"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1)}
    with pytest.raises(UserError, match="SGD, and the moments in the checkpoint are of AdamW"):
        fit(tmp_path / "c", max_steps=8, module=another, ckpt_path=tmp_path / "half.ckpt")


def test_training_logs_the_share_of_the_ceiling(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "_CEILING_AFTER", 0)
    monkeypatch.setattr(throughput, "matrix_ceiling", lambda device, dtype: 1e9)
    module = make_module("2.0")
    runner = make_trainer(tmp_path, max_steps=4, log_every_n_steps=2)
    runner.fit(module, datamodule=PictureModule())
    logged = runner.callback_metrics
    seconds = 8 / float(logged["throughput/images_per_second"])
    pictures = torch.randn(8, 3, 16, 16)
    batch = Batch(pictures, torch.arange(8), torch.zeros(8, dtype=torch.int64))
    flops = module.method.flops("", batch, module.method({"": batch}, 0)[""])
    assert float(logged["throughput/mfu"]) == pytest.approx(flops / seconds / 1e9, rel=1e-4)

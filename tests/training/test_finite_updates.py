"""A loss or gradient that is not finite moves nothing, too many in a row stop the run, broken weights are not saved."""

import re
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from tiny_runs import PictureModule, Pictures, largest_difference, make_module, make_trainer, weights

import d2v
from d2v.cli import _describe
from d2v.data.broken_samples import SkippedSamples
from d2v.data.samples import SampleDataset
from d2v.errors import UserError
from d2v.model.losses import RegressionLoss
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.callbacks.spikes import SkipSpikes

INFINITY = float("inf")


class Break(L.Callback):
    """Lets the loss, or one gradient, of some optimizer steps be another number, and records what the steps left."""

    def __init__(self, steps: set[int], value: float = float("nan"), where: str = "loss") -> None:
        self.steps, self.value, self.where = steps, value, where
        self.states: list[dict[str, Any]] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        step = pl_module.training_step

        def training_step(batch: Any, batch_idx: int) -> dict[str, Any]:
            output = step(batch, batch_idx)
            last = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
            if self.where == "loss" and trainer.global_step + 1 in self.steps and last:
                output["loss"] = output["loss"] + self.value  # whose gradient stays finite
            return output

        pl_module.training_step = training_step  # type: ignore[method-assign]

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.where == "gradient" and trainer.global_step + 1 in self.steps:
            next(pl_module.parameters()).grad[0] = self.value  # type: ignore[index]

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._record(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._record(trainer)

    def _record(self, trainer: L.Trainer) -> None:
        optimizer = trainer.optimizers[0]
        moments = {}
        for number, state in enumerate(optimizer.state.values()):
            for name, value in state.items():
                moments[f"{number}.{name}"] = value.clone()
        rates = torch.tensor([group["lr"] for group in optimizer.param_groups])
        self.states.append({**weights(trainer.lightning_module), **moments, "rates": rates})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("where", "value", "accumulated", "precision", "kind"),
    [
        ("loss", INFINITY, 1, "32", "2.0"),
        ("loss", float("nan"), 2, "32", "2.0"),
        ("gradient", float("nan"), 2, "32", "2.0"),
        ("loss", float("nan"), 4, "bf16-mixed", "1.0"),
        ("gradient", INFINITY, 1, "bf16-mixed", "2.0"),
    ],
)
def test_a_skipped_update_changes_nothing(
    tmp_path: Path, where: str, value: float, accumulated: int, precision: Any, kind: str
) -> None:
    """Weights, teacher, moments and rates; and the next update has the rate and the decay that this one would have."""
    broken, whole = Break({3, 5}, value, where), Break(set())
    decays = []
    for callback in (broken, whole):
        module = make_module(kind, random=True)
        at = module.ema.at
        seen: list[float] = []

        def spy(*args: int, at: Any = at, seen: list[float] = seen) -> float:
            seen.append(at(*args))
            return seen[-1]

        object.__setattr__(module.ema, "at", spy)
        trainer = make_trainer(tmp_path, max_steps=7, callbacks=[callback], precision=precision)
        trainer.fit(module, datamodule=PictureModule(64, 4, 4 * accumulated))
        assert len(callback.states) == 8
        assert all(value.isfinite().all() for value in callback.states[-1].values())
        decays.append(seen)
        if callback is broken:
            assert (module.skipped_updates, module.updates) == (2, 5)
    for step in range(7):
        before, after = broken.states[step], broken.states[step + 1]
        if step > 0:  # then there are no moments before the first update
            assert (largest_difference(before, after) == 0) == (step + 1 in broken.steps)
    # Before the first step both are asked once for each step of the plan.
    assert decays[0][7:] == decays[1][7:12]
    rates = [state["rates"].tolist() for state in whole.states]
    assert [state["rates"].tolist() for state in broken.states] == [rates[n] for n in (0, 1, 2, 2, 3, 3, 4, 5)]


class OfSteps(L.Callback):
    """Counts the updates that were skipped until the end of each micro-batch."""

    def __init__(self) -> None:
        self.skipped: list[int] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        self.skipped.append(pl_module.skipped_updates)


def fp16(scale: float, growth_interval: int = 1000) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", scale, growth_interval=growth_interval))


def test_the_scaler_of_fp16_moves_nothing_else_when_it_skips(tmp_path: Path) -> None:
    """And is given time to find its scale, but not for ever."""
    module, callback, precision = make_module(), Break(set()), fp16(2.0**60)
    trainer = make_trainer(tmp_path, max_steps=60, callbacks=[callback], plugins=[precision])
    with pytest.raises(FloatingPointError, match="36 times in a row"):
        trainer.fit(module, datamodule=PictureModule())
    assert precision.scaler.get_scale() == 2.0**24  # type: ignore[union-attr]
    assert largest_difference(callback.states[0], callback.states[-1]) == 0


@pytest.mark.parametrize("fused", [False, True])
def test_a_scale_that_is_too_large_for_the_first_dozen_steps_stops_nothing(tmp_path: Path, fused: bool) -> None:
    """Nor does a skipped step move weights, teacher, moments or rates; the others do, at the rates of fp32."""

    def optimizer(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=3e-3, fused=fused)

    clip = None if fused else 4.0  # Lightning clips nothing for an optimizer that takes the scale away by itself
    states, counts = Break(set()), OfSteps()
    module = make_module(optimizer=optimizer)
    trainer = make_trainer(
        tmp_path, max_steps=23, callbacks=[states, counts], plugins=[fp16(2.0**33, 5)], gradient_clip_val=clip,
        log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, datamodule=PictureModule(64, 4, 8))
    skipped = torch.tensor([0, *counts.skipped[1::2]]).diff().tolist()
    assert skipped[:12] == [1] * 12, "that many in a row"
    assert sum(skipped[12:]) > 0, "and another one, after the scale has grown"
    assert module.updates == 23 - sum(skipped) > 3
    for step in range(12, 23):  # there are no moments before the first update
        before, after = states.states[step], states.states[step + 1]
        if before.keys() == after.keys():
            assert (largest_difference(before, after) == 0) == bool(skipped[step])
    whole = Break(set())
    make_trainer(tmp_path, max_steps=23, callbacks=[whole]).fit(make_module(), datamodule=PictureModule(64, 4, 8))
    assert states.states[-1]["rates"].tolist() == whole.states[module.updates]["rates"].tolist()
    assert not skipped[-1]
    assert 0.01 < float(trainer.callback_metrics["train/grad_norm"]) < 100, "without the scale"


def test_a_resumed_run_in_fp16_repeats_an_uninterrupted_one(tmp_path: Path) -> None:
    """With the scale, and what was skipped."""
    ends = []
    path = None
    checkpoint = RunCheckpoint(every_n_train_steps=1, keep=-1, dirpath=str(tmp_path))
    for callbacks in ([checkpoint], []):
        module, precision = make_module(), fp16(2.0**25, 3)
        trainer = make_trainer(
            tmp_path, max_steps=20, plugins=[precision], callbacks=callbacks, enable_checkpointing=path is None
        )
        trainer.fit(module, datamodule=PictureModule(64, 4, 8), ckpt_path=path)
        assert trainer.global_step == 20
        ends.append((module.skipped_updates, precision.state_dict(), weights(module)))
        path = str(max(tmp_path.glob("step-1[0-8].ckpt")))
    assert torch.load(path, weights_only=True)["d2v"]["skipped_updates"] >= 4
    assert ends[0][:2] == ends[1][:2]
    assert largest_difference(ends[0][2], ends[1][2]) == 0


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_as_by_lightning_and_logged_as_they_were_before(tmp_path: Path, algorithm: str) -> None:
    """To the last bit, though their norm is computed once."""

    class Compare(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
            self.copies: list[torch.Tensor] = []
            for parameter in trainer.precision_plugin.main_params(optimizer):
                copy = torch.zeros_like(parameter)
                copy.grad = parameter.grad.clone()
                self.copies.append(copy)
            self.norm = torch.nn.utils.get_total_norm([copy.grad for copy in self.copies])
            if algorithm == "norm":
                torch.nn.utils.clip_grad_norm_(self.copies, 0.01)
            else:
                torch.nn.utils.clip_grad_value_(self.copies, 0.01)

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            parameters = list(trainer.precision_plugin.main_params(trainer.optimizers[0]))
            for parameter, copy in zip(parameters, self.copies, strict=True):
                assert torch.equal(parameter.grad, copy.grad)

    settings: dict[str, Any] = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": algorithm, "log_every_n_steps": 1}
    compare = Compare()
    trainer = make_trainer(tmp_path, max_steps=3, callbacks=[compare], **settings)
    trainer.fit(make_module(), datamodule=PictureModule())
    assert compare.norm == trainer.callback_metrics["train/grad_norm"] > 0.02


def test_ten_in_a_row_stop_the_run_and_leave_the_weights_of_before(tmp_path: Path) -> None:
    checkpoint = RunCheckpoint(every_n_train_steps=4, dirpath=str(tmp_path))
    bad = set(range(7, 40))
    trainer = make_trainer(tmp_path, max_steps=40, callbacks=[Break(bad), checkpoint], enable_checkpointing=True)
    module = make_module()
    message = r"^step 16: the loss .* 10 times in a row; the last finite loss was \d.* at step 6, whose weights are in"
    with pytest.raises(FloatingPointError, match=message):
        trainer.fit(module, datamodule=PictureModule())
    assert {file.name for file in tmp_path.iterdir()} == {"step-4.ckpt", "last.ckpt"}, "the older one stays"
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert largest_difference(state["state_dict"], weights(module)) == 0
    assert (state["global_step"], state["d2v"]["skipped_updates"]) == (16, 10)
    # The resume goes on behind those samples, and its schedules where they were.
    module, trainer = make_module(), make_trainer(tmp_path, max_steps=18)
    trainer.fit(module, datamodule=PictureModule(), ckpt_path=str(tmp_path / "last.ckpt"))
    assert module.updates == 8
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 8


def test_nine_in_a_row_do_not(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=14, callbacks=[Break(set(range(2, 11)))])
    trainer.fit(make_module(), datamodule=PictureModule())
    assert trainer.global_step == 14


def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path: Path) -> None:
    class Overflow(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
            if trainer.global_step == 3:
                next(pl_module.parameters()).data[0] = INFINITY

    checkpoint = RunCheckpoint(every_n_train_steps=2, dirpath=str(tmp_path))
    trainer = make_trainer(tmp_path, max_steps=40, callbacks=[checkpoint, Overflow()], enable_checkpointing=True)
    with pytest.raises(FloatingPointError, match=r"^step 4: a weight is not finite.*so no checkpoint is written"):
        trainer.fit(make_module(), datamodule=PictureModule())
    assert {file.name for file in tmp_path.iterdir()} == {"step-2.ckpt", "last.ckpt"}
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    name = next(name for name in content["state_dict"] if name.startswith("method.student"))
    content["state_dict"][name].view(-1)[0] = INFINITY
    torch.save(content, tmp_path / "broken.ckpt")
    with pytest.raises(UserError, match=r"hold numbers that are not finite.*take an earlier one"):
        d2v.load(tmp_path / "broken.ckpt")
    with pytest.raises(UserError, match=r"model\.init_from .*hold numbers that are not finite"):
        make_module(init_from=str(tmp_path / "broken.ckpt"), loss=RegressionLoss())


@pytest.mark.parametrize("where", ["state_dict", "optimizer_states"])
def test_what_is_finite_but_of_no_use_is_not_written_either(tmp_path: Path, where: str) -> None:
    """A weight whose square overflows; and what is not finite beside the weights."""

    class Damage(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
            if trainer.global_step == 3 and where == "state_dict":
                next(pl_module.parameters()).data[0] = 1e30
            elif trainer.global_step == 3:
                next(iter(trainer.optimizers[0].state.values()))["exp_avg_sq"][0] = INFINITY

    checkpoint = RunCheckpoint(every_n_train_steps=2, dirpath=str(tmp_path))
    trainer = make_trainer(tmp_path, max_steps=40, callbacks=[checkpoint, Damage()], enable_checkpointing=True)
    what = {"state_dict": "a weight", "optimizer_states": "a moment of the optimizer"}[where]
    with pytest.raises(
        FloatingPointError, match=rf"{what} is not finite.* no checkpoint is written; earlier ones stay"
    ):
        trainer.fit(make_module(), datamodule=PictureModule())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


class Unreadable(Pictures):
    """Some have numbers that the model cannot take; their names are words."""

    broken: ClassVar[set[int]] = {5, 11}

    def load(self, index: int) -> tuple[torch.Tensor, int | None]:
        pixels, label = super().load(index)
        return pixels * (INFINITY if index in self.broken else 1), label


class UnreadableModule(PictureModule):
    def train_dataset(self) -> SampleDataset:
        return Unreadable(self.num_samples, self.seed, SkippedSamples("{}.png".format, self.num_samples, 0.0))


def test_the_samples_of_a_skipped_update_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Those that were the cause, in whatever micro-batch; once an update."""
    trainer = make_trainer(tmp_path, max_steps=4, log_every_n_steps=4)
    module = make_module()
    trainer.fit(module, datamodule=UnreadableModule(32, 4, 8))
    told = [text for text in caplog.messages if "this update is skipped" in text]
    assert len(told) == module.skipped_updates in (1, 2)
    named = set(re.findall(r"(\d+)\.png", " ".join(told)))
    assert named == {"5", "11"}
    assert trainer.callback_metrics["train/skipped_updates"] == module.skipped_updates


def test_the_last_word_names_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all samples are the cause, two of them an update in the log, and the first ones in the error."""
    monkeypatch.setattr(Unreadable, "broken", set(range(32)))
    with pytest.raises(FloatingPointError, match="10 times in a row; there was no finite loss") as stop:
        make_trainer(tmp_path).fit(make_module(), datamodule=UnreadableModule(32, 4, 4))
    line = _describe(stop.value, debug=False)
    assert "samples of what was skipped: " in line
    assert line.count(".png") == 16


def test_a_gradient_alone_is_nobodys_fault_so_that_all_samples_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(tmp_path, max_steps=3, callbacks=[Break({2}, where="gradient")])
    trainer.fit(make_module(), datamodule=PictureModule(32, 4, 8))
    (told,) = [text for text in caplog.messages if "this update is skipped" in text]
    assert len(told.partition("so far): ")[2].split(", ")) == 8


# Spikes


class Spikes(L.Callback):
    """The loss of some steps is a thousand times what it should be. (Pictures a thousand times too bright are nothing
    to a model that normalises: neither loss nor gradients rise.)"""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        step = pl_module.training_step

        def training_step(batch: Any, batch_idx: int) -> dict[str, Any]:
            output = step(batch, batch_idx)
            if trainer.global_step + 1 in self.steps:
                output["loss"] = output["loss"] * 1000
            return output

        pl_module.training_step = training_step  # type: ignore[method-assign]


@pytest.mark.parametrize("skips", [True, False])
def test_a_spike_moves_nothing(tmp_path: Path, skips: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Where it is asked for; and what is skipped does not count as usual, so that the next one is skipped too."""
    states = Break(set())
    callbacks = [Spikes(20, 22), states]
    if skips:
        callbacks.append(SkipSpikes(window=24))
    module = make_module(random=True)
    make_trainer(tmp_path, max_steps=24, callbacks=callbacks).fit(module, datamodule=PictureModule(64, 4, 8))
    for step in (20, 22):
        difference = largest_difference(states.states[step - 1], states.states[step])
        assert (difference == 0) == skips
    assert largest_difference(states.states[20], states.states[21]) > 0
    assert module.skipped_updates == 2 * skips
    told = [text for text in caplog.messages if "deviations" in text]
    assert len(told) == 2 * skips
    for text in told:
        assert re.match(r"step 2[02]: the norm of the gradients, \d.* this update is skipped \([12] so far\): ", text)


def test_a_resumed_run_skips_the_spikes_of_an_uninterrupted_one(tmp_path: Path) -> None:
    ends = []
    path = None
    for _ in range(2):
        checkpoint = RunCheckpoint(every_n_train_steps=5, keep=-1, dirpath=str(tmp_path / str(len(ends))))
        module = make_module(random=True)
        callbacks = [Spikes(14, 18), SkipSpikes(window=16), checkpoint]
        trainer = make_trainer(tmp_path, max_steps=20, callbacks=callbacks, enable_checkpointing=True)
        trainer.fit(module, datamodule=PictureModule(64, 4, 8), ckpt_path=path, weights_only=True)
        path = str(tmp_path / "0" / "step-15.ckpt")
        last = torch.load(tmp_path / str(len(ends)) / "last.ckpt", weights_only=True)
        ends.append((module.skipped_updates, last["callbacks"]["SkipSpikes"], weights(module)))
    assert ends[0][:2] == ends[1][:2]
    assert ends[0][0] == 2
    assert largest_difference(ends[0][2], ends[1][2]) == 0


def test_a_level_is_no_spike_and_stops_the_run(tmp_path: Path) -> None:
    callbacks = [Spikes(*range(12, 40)), SkipSpikes(window=16)]
    with pytest.raises(FloatingPointError, match=r"^step 21: the norm of the gradients.*, 10 times in a row; the last"):
        make_trainer(tmp_path, max_steps=40, callbacks=callbacks).fit(make_module(), datamodule=PictureModule())


@pytest.mark.parametrize("settings", [{"deviations": 0}, {"deviations": float("nan")}, {"window": 3}])
def test_spikes_that_mean_nothing(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="SkipSpikes: deviations"):
        SkipSpikes(**settings)

"""What is logged is of the whole optimizer step, and a run whose targets or predictions have become too alike ends."""

import csv
import math
import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tiny_runs import PictureModule, make_module, make_trainer
from torch import Tensor, nn

from d2v.cli import _describe
from d2v.model.masking import Mask
from d2v.training.callbacks import collapse
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.callbacks.collapse import CollapseCallback, CollapseLimits, measure, pooled
from d2v.types import Data2VecOutput, TokenSequence


def compute_var(y: Tensor) -> Tensor:
    """fairseq 3d262bb, data2vec2.py: of one device; its limits are held against this."""
    return torch.sqrt(y.var(dim=0) + 1e-6).mean()


def of_shape(samples: int, masked: int, scored: int, shift: float) -> Data2VecOutput:
    """An output of 2 masks a sample; the last tokens of each row are no scored ones."""
    rows = 2 * samples
    flags = (torch.arange(masked) < scored).expand(rows, -1)
    dense = (torch.arange(20) < scored).expand(rows, -1)
    padding = (torch.arange(20) >= 18).expand(rows, -1)
    mask = Mask(dense, *torch.zeros(2, rows, masked, dtype=torch.long), 2, flags, padding)
    features = TokenSequence(torch.randn(samples, 20, 6), (20,), padding[:samples])
    predictions = torch.randn(rows, masked, 6) * torch.arange(1, 7)
    targets = torch.randn(rows, masked, 6) + shift
    return Data2VecOutput(
        torch.tensor(0.0), torch.rand(()), torch.rand(()), predictions.requires_grad_(), targets, mask, features
    )


def test_parts_of_unequal_sizes_give_what_the_whole_would() -> None:
    """Also where the mean is large: there fairseq's sums of squares lose all digits."""
    torch.manual_seed(0)
    outputs = [of_shape(1, 4, 3, 1e4), of_shape(3, 9, 9, 1e4), of_shape(2, 7, 1, 1e4 + 1)]
    parts = [measure(output, 5) for output in outputs]
    assert [len(part["target rows"]) for part in parts] == [5, 5, 4], "no more than there are"
    values = pooled(parts)
    for metric, name in (("train/target_std", "targets"), ("train/prediction_std", "predictions")):
        rows = [getattr(output, name)[output.mask.scored] for output in outputs]
        assert values[metric] == pytest.approx(float(compute_var(torch.cat(rows).detach().double())), rel=2e-5)
    counts = torch.tensor([2 * 3, 6 * 9, 4 * 1])
    losses = torch.stack([output.regression_loss for output in outputs])
    assert values["train/regression_loss"] == pytest.approx(float((losses * counts).sum() / counts.sum()))
    cls_losses = torch.stack([output.cls_loss for output in outputs])  # type: ignore[arg-type]
    assert values["train/cls_loss"] == pytest.approx(float((cls_losses * torch.tensor([2, 6, 4])).sum() / 12))
    assert values["train/masked_fraction"] == pytest.approx(float(counts.sum()) / (12 * 18))


def test_the_sample_for_the_rank_is_even() -> None:
    output = of_shape(1, 4, 4, 0)
    output.targets.copy_(torch.arange(8.0).view(2, 4, 1).expand(2, 4, 6))
    assert measure(output, 3)["target rows"][:, 0].tolist() == [0, 2, 5]


def test_accumulated_micro_batches_are_logged_as_one_batch(tmp_path: Path) -> None:
    logged = []
    for micro_batch in (8, 2):
        trainer = make_trainer(tmp_path, max_steps=3, log_every_n_steps=3)
        trainer.fit(make_module(), datamodule=PictureModule(50, micro_batch, 8))
        logged.append(of_the_step(trainer.callback_metrics))
    assert trainer.accumulate_grad_batches == 4
    assert logged[1] == pytest.approx(logged[0], rel=1e-4)


def of_the_step(metrics: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if name.startswith("train/")}


def test_other_steps_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    module = make_module()

    def spy(*args: Any) -> dict[str, Tensor]:
        steps.append(module._seeded_step + 1)
        return measure(*args)

    monkeypatch.setattr(collapse, "measure", spy)
    trainer = make_trainer(tmp_path, max_steps=8, log_every_n_steps=4)
    trainer.fit(module, datamodule=PictureModule(32, 4, 8))
    assert steps == [4, 4, 8, 8]


class Constant(nn.Module):
    """What a part gave, but the same for all tokens."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.dimensions = getattr(part, "dimensions", None)  # a head says which grids it is for; targets do not

    def forward(self, *args: Any) -> Tensor:
        out = self.part(*args)
        return out * 1e-5 + torch.arange(out.shape[-1])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("head", r"^step 6: train/prediction_std is 0\.001\d*, below model\.collapse\.min_prediction_std 0\.01: "),
        ("targets", r"^step 6: train/target_std is 0\.001\d*, below model\.collapse\.min_target_std 0\.1: "),
    ],
)
def test_a_collapse_ends_the_run(tmp_path: Path, part: str, message: str) -> None:
    """At the first logged step that had more updates behind it than are let go, with a checkpoint, and on a resume."""
    for resume, end in ((None, 6), ("last.ckpt", 8)):
        module = collapsed(part, CollapseLimits(after=4))
        checkpoint = RunCheckpoint(every_n_train_steps=4, dirpath=str(tmp_path))
        trainer = make_trainer(
            tmp_path, max_steps=20, log_every_n_steps=2, callbacks=[checkpoint], enable_checkpointing=True,
            logger=CSVLogger(tmp_path, name="", version=""),
        )  # fmt: skip
        path = None if resume is None else str(tmp_path / resume)
        with pytest.raises(RuntimeError, match=message.replace("6", str(end), 1)) as stop:
            trainer.fit(module, datamodule=PictureModule(), ckpt_path=path)
        line = _describe(stop.value, debug=False)
        for key in ("model.optimizer.lr", "model.schedule.warmup", "model.ema", "model.masking.span", "last.ckpt"):
            assert key in line
        assert {"step-4.ckpt", "last.ckpt"} <= {file.name for file in tmp_path.iterdir()}, "the older one stays"
        assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == end
        assert (tmp_path / "metrics.csv").read_text().count("\n") == {6: 4, 8: 2}[end], "the last row is logged, too"


def collapsed(part: str, limits: CollapseLimits) -> Any:
    module = make_module(collapse=limits)
    setattr(module.method.task, part, Constant(getattr(module.method.task, part)))
    return module


def test_exactly_so_many_updates_are_let_go(tmp_path: Path) -> None:
    """fairseq looks in the forward pass, where ``num_updates > 5000``: first in that of update 5,002."""
    trainer = make_trainer(tmp_path, max_steps=20, log_every_n_steps=1)
    with pytest.raises(RuntimeError, match=r"^step 5: "):
        trainer.fit(collapsed("head", CollapseLimits(after=3)), datamodule=PictureModule())


@pytest.mark.parametrize("limits", [CollapseLimits(), CollapseLimits(0, 0, 0)])
def test_a_short_run_is_told_and_one_without_limits_is_not(
    tmp_path: Path, limits: CollapseLimits, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(tmp_path, max_steps=4, log_every_n_steps=2)
    trainer.fit(collapsed("targets", limits), datamodule=PictureModule())
    assert trainer.global_step == 4
    told = [text for text in caplog.messages if "warning: step 4: train/target_std is" in text]
    assert len(told) == (limits.after == 5000)


class CollapseHead(L.Callback):
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step == 5:
            pl_module.method.task.head = Constant(pl_module.method.task.head)


@pytest.mark.parametrize("limits", [CollapseLimits(), CollapseLimits(0, 0, 0)])
def test_a_fall_is_told_once_whatever_the_limits(
    tmp_path: Path, limits: CollapseLimits, caplog: pytest.LogCaptureFixture
) -> None:
    """Also after a resume, whose own steps were never above."""
    checkpoint = RunCheckpoint(every_n_train_steps=4, dirpath=str(tmp_path), keep=-1)
    for path in (None, str(tmp_path / "step-4.ckpt")):
        caplog.clear()
        trainer = make_trainer(
            tmp_path, max_steps=12, log_every_n_steps=2, callbacks=[checkpoint, CollapseHead()],
            enable_checkpointing=True,
        )  # fmt: skip
        trainer.fit(make_module(collapse=limits), datamodule=PictureModule(), ckpt_path=path, weights_only=True)
        (told,) = [text for text in caplog.messages if "is collapsing" in text]
        assert re.match(
            r"warning: step 6: the model is collapsing: train/prediction_std is 0\.001\d* and was 0\.\d+\. ", told
        )
        assert "model.ema.start" in told


@pytest.mark.parametrize("run", ["speech_mini_librispeech", "vision_cifar10"])
def test_what_happened_in_runs_that_learned_is_no_fall(
    run: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """But what an EMA decay of 0 did to a run is."""
    caplog.set_level("INFO")
    callback, trainer = CollapseCallback(CollapseLimits(0, 0, 0)), make_trainer(tmp_path)
    names = ("train/target_std", "train/prediction_std", "train/target_effective_rank")
    path = Path(__file__).parents[2] / "benchmarks" / run / "metrics.csv"
    with path.open() as file:
        for row in csv.DictReader(file):
            if row[names[0]]:
                callback._warn_of_fall(trainer, "", {name: float(row[name]) for name in names})
    assert "collapsing" not in caplog.text
    assert callback._highest[names[2]] > 45
    callback._warn_of_fall(trainer, "", dict.fromkeys(names, math.nan))
    callback._warn_of_fall(trainer, "", {names[0]: 1.0, names[1]: 1.0, names[2]: 3.5})
    assert "train/target_effective_rank is 3.5 and was" in caplog.text


def test_what_published_recipes_say() -> None:
    """1.0 speech and 2.0 speech and text have fairseq's limits, the others none (min_target_var in their configs)."""
    from d2v.configs import find_config

    assert CollapseLimits() == CollapseLimits(0.1, 0.01, 5000)
    with_limits = []
    for name in ("vision.yaml", "speech.yaml", "text.yaml", "v2/vision.yaml", "v2/speech.yaml", "v2/text.yaml"):
        if "min_target_std: 0\n" not in Path(find_config(name)).read_text():
            with_limits.append(name)
    assert with_limits == ["speech.yaml", "v2/speech.yaml", "v2/text.yaml"]

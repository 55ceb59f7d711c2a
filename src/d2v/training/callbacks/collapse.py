"""Logs what shows a collapse, warns of one, and ends a run that has collapsed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from d2v import metrics
from d2v.evaluation.effective_rank import effective_rank
from d2v.training.callbacks.log import in_logged_step, step_is_logged
from d2v.training.callbacks.monitor import report
from d2v.training.finite_updates import FiniteUpdates
from d2v.types import Data2VecOutput
from d2v.verdicts import Verdict

# Of the largest so far. Runs that learned well fell to 0.30 (benchmarks/README.md) and rose again, those that collapsed
# to 0.17 and below.
_LEAST_SHARE_OF_RANK = 0.2
# Rows that an effective rank is computed from. The eigenvalues of 512 take a quarter of the time of 1,024 at a width of
# 768 (35 ms on a core), and a rank below 100 is nearly the same; with 256 a collapse from 150 to 17 would look like one
# from 70 to 15.
RANK_SAMPLES = 512


@dataclass(frozen=True)
class CollapseLimits:
    """Where a run ends, because targets or predictions have become too alike: fairseq's ``min_target_var`` and
    ``min_pred_var``, which are deviations in spite of their names (``compute_var`` in ``data2vec2.py``).

    Args:
        min_target_std: Least deviation of the targets; 0: none. The official 1.0 speech and 2.0 speech and text.
        min_prediction_std: Of the predictions; 0: none.
        after: So many updates are let go; in a shorter run, the command says so at the end.
    """

    min_target_std: float = 0.1
    min_prediction_std: float = 0.01
    after: int = 5000


PUBLISHED = CollapseLimits()


class CollapseCallback(L.Callback):
    """Logs spreads, ranks and losses of all micro-batches and devices of a step that is logged, and holds the spreads
    against the limits. In other steps it does nothing.

    Whatever the limits are, it warns once of a spread that was above fairseq's and has fallen below, or of targets
    whose effective rank has fallen to a fifth. What is small at the start, as small first weights make it, is no fall.

    Args:
        limits: The least spreads.
    """

    def __init__(self, limits: CollapseLimits) -> None:
        self.limits = limits
        self._parts: dict[str, list[dict[str, Tensor]]] = {}
        self._low = ""
        self._highest: dict[str, float] = {}
        self._has_warned = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._parts = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not in_logged_step(trainer):
            return
        rows = max(1, RANK_SAMPLES // (trainer.world_size * trainer.accumulate_grad_batches))
        for name, output in outputs.get("outputs", {}).items():
            self._parts.setdefault(name, []).append(measure(output, rows))
        if not step_is_logged(trainer):
            return
        self._low = ""
        for name, parts in sorted(of_all_devices(trainer, self._parts).items()):
            values = pooled(parts)
            for metric, value in values.items():
                pl_module.log(metrics.of_encoder(metric, name), value)
            self._judge(trainer, pl_module, name, values)
            if trainer.is_global_zero:
                for metric, key in ((metrics.TARGET_RANK, "target rows"), (metrics.EXTRACTOR_RANK, "token rows")):
                    values[metric] = float(effective_rank(torch.cat([part[key] for part in parts])))
                    pl_module.log(metrics.of_encoder(metric, name), values[metric], rank_zero_only=True)
                self._warn_of_fall(trainer, name, values)
        self._parts = {}

    def _warn_of_fall(self, trainer: L.Trainer, name: str, values: Mapping[str, float]) -> None:
        limits = {
            metrics.TARGET_STD: PUBLISHED.min_target_std,
            metrics.PREDICTION_STD: PUBLISHED.min_prediction_std,
            metrics.TARGET_RANK: _LEAST_SHARE_OF_RANK
            * self._highest.get(metrics.of_encoder(metrics.TARGET_RANK, name), 0),
        }
        for metric, limit in limits.items():
            value, metric = values[metric], metrics.of_encoder(metric, name)
            highest = self._highest.get(metric, 0.0)
            if value < limit <= highest and not self._has_warned:
                self._has_warned = True
                why = f"{metric} is {value:.3g} and was {highest:.3g}"
                fault = metrics.of_encoder("collapse", name)
                report(trainer, Verdict(trainer.global_step, fault, "the model is collapsing", why, _WHAT_TO_TRY))
            if value > highest:  # not of a value that is not a number
                self._highest[metric] = value

    def state_dict(self) -> dict[str, Any]:
        return {"highest": self._highest, "has_warned": self._has_warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._highest, self._has_warned = dict(state_dict["highest"]), state_dict["has_warned"]

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._low:
            rank_zero_info(f"warning: {self._low}. {_WHAT_TO_TRY}")

    def _judge(self, trainer: L.Trainer, pl_module: L.LightningModule, name: str, values: Mapping[str, float]) -> None:
        updates = getattr(pl_module, "updates", trainer.global_step)
        limits = {
            metrics.TARGET_STD: ("min_target_std", self.limits.min_target_std),
            metrics.PREDICTION_STD: ("min_prediction_std", self.limits.min_prediction_std),
        }
        for metric, (key, limit) in limits.items():
            if values[metric] < limit:
                self._low = (
                    f"step {trainer.global_step:,}: {metrics.of_encoder(metric, name)} is {values[metric]:.3g}, "
                    f"below model.collapse.{key} {limit:g}: the model has collapsed, and more steps will not help"
                )
                if updates - 1 > self.limits.after:  # those before the forward pass that is judged
                    failure = RuntimeError(f"{self._low}; its weights are in last.ckpt")
                    failure.add_note(_WHAT_TO_TRY)
                    if not isinstance(pl_module, FiniteUpdates):
                        raise failure  # nobody would raise it after the checkpoint
                    pl_module.failure = failure


_WHAT_TO_TRY = (  # the causes that the first paper names
    "Start again, or from an earlier checkpoint, with a lower model.optimizer.lr or a longer model.schedule.warmup; "
    "with model.ema.start and end nearer to 1, or a shorter model.ema.anneal; in speech, whose neighbouring targets "
    "are much alike, with a longer model.masking.span and model.targets.layer_norm instance"
)


@torch.no_grad()
def measure(output: Data2VecOutput, rows: int) -> dict[str, Tensor]:
    """Of one micro-batch: what :func:`pooled` needs, and so many rows for each rank; on the CPU, because a GPU finds
    eigenvalues more slowly."""
    predictions, targets = output.predictions.flatten(0, 1).float(), output.targets.flatten(0, 1).float()
    if output.mask.scored is not None:
        scored = output.mask.scored.flatten()
        predictions, targets = predictions[scored], targets[scored]
    tokens, padding = output.features.tokens.flatten(0, 1).float(), output.features.padding_mask
    if padding is not None:
        tokens = tokens[~padding.flatten()]
    mask = output.mask
    part = {
        "count": torch.tensor(len(targets)),
        "targets": torch.stack(torch.var_mean(targets, dim=0, correction=0)),  # [2, D]
        "predictions": torch.stack(torch.var_mean(predictions, dim=0, correction=0)),
        "target rows": _sample(targets, rows),
        "token rows": _sample(tokens, rows),
        "masked": mask.masked.sum(),
        "tokens": torch.tensor(mask.masked.numel()) if mask.padding is None else (~mask.padding).sum(),
        "error": (predictions - targets).square().mean(),
        "target size": targets.var(dim=1, correction=0).mean(),
        "regression loss": output.regression_loss,
        "rows": torch.tensor(len(mask.masked)),
    }
    if output.cls_loss is not None:
        part["cls loss"] = output.cls_loss
    return {key: value.detach().cpu() for key, value in part.items()}


def pooled(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """The metrics of some micro-batches together, as if they were one."""
    columns = {}
    for key in parts[0]:
        if not key.endswith(" rows"):
            columns[key] = torch.stack([part[key].double() for part in parts])
    count = columns["count"]
    variance = _pooled_variance(count, columns["targets"]).mean()
    values = {
        metrics.REGRESSION_LOSS: _mean(count, columns["regression loss"]),
        metrics.TARGET_STD: _pooled_std(count, columns["targets"]),
        metrics.PREDICTION_STD: _pooled_std(count, columns["predictions"]),
        metrics.TARGET_SIZE: _mean(count, columns["target size"]).sqrt(),
        metrics.EXPLAINED: 1 - _mean(count, columns["error"]) / variance.clamp(min=1e-12),
        metrics.MASKED_FRACTION: columns["masked"].sum() / columns["tokens"].sum(),
    }
    if "cls loss" in columns:
        values[metrics.CLS_LOSS] = _mean(columns["rows"], columns["cls loss"])
    return {metric: float(value) for metric, value in values.items()}


def _mean(count: Tensor, values: Tensor) -> Tensor:
    """Of the values of parts that are means over so many."""
    return (count * values).sum() / count.sum()


def _pooled_std(count: Tensor, moments: Tensor) -> Tensor:
    """Mean over D of the deviation of all vectors, as fairseq's ``compute_var`` (which loses it to rounding where the
    mean is large)."""
    return (_pooled_variance(count, moments) + 1e-6).sqrt().mean()


def _pooled_variance(count: Tensor, moments: Tensor) -> Tensor:
    """Variance [D] of all vectors, from the variance and mean of each part [P, 2, D]."""
    variances, means = moments.unbind(dim=1)
    weights, total = count[:, None], count.sum()
    mean = (weights * means).sum(dim=0) / total
    return (weights * (variances + (means - mean) ** 2)).sum(dim=0) / (total - 1)


def _sample(x: Tensor, rows: int) -> Tensor:
    """Evenly spaced rows of [n, D]."""
    rows = min(rows, len(x))
    return x[torch.arange(rows, device=x.device) * len(x) // max(rows, 1)]


def of_all_devices(trainer: L.Trainer, parts: dict[str, list[dict[str, Tensor]]]) -> dict[str, list[dict[str, Tensor]]]:
    """The lists of all devices joined; encoders and shapes may differ between them."""
    if trainer.world_size == 1:
        return parts
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, parts)
    joined: dict[str, list[dict[str, Tensor]]] = {}
    for one in gathered:
        for name, of_encoder in one.items():
            joined.setdefault(name, []).extend(of_encoder)
    return joined

"""Metrics of a classification or regression, by name."""

import warnings
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
    MultilabelAveragePrecision,
)
from torchmetrics.regression import PearsonCorrCoef, SpearmanCorrCoef

from d2v.errors import UserError

Task = Literal["single", "multi", "regression"]


class SecondClassF1(BinaryF1Score):
    """F1 of the second of two classes, which is the positive one."""

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Scores [B, 2], labels [B]."""
        super().update(scores.argmax(dim=1), labels)


def _f1(num_classes: int) -> Metric:
    return SecondClassF1() if num_classes == 2 else MulticlassF1Score(num_classes, average="macro")


_METRICS: dict[str, dict[str, Callable[[int], Metric]]] = {
    "single": {
        "top1": lambda count: MulticlassAccuracy(count, average="micro"),
        "top5": lambda count: MulticlassAccuracy(count, top_k=5, average="micro"),
        "accuracy": lambda count: MulticlassAccuracy(count, average="micro"),
        "f1": _f1,
        "matthews": lambda count: MulticlassMatthewsCorrCoef(count),
    },
    "multi": {"map": lambda count: MultilabelAveragePrecision(count, average="macro")},
    "regression": {"pearson": lambda _: PearsonCorrCoef(), "spearman": lambda _: SpearmanCorrCoef()},
}
"""By task and name, each made from the number of classes."""
_DEFAULT = {"single": ("top1", "top5"), "multi": ("map",), "regression": ("pearson", "spearman")}


def check_metrics(task: Task, names: Sequence[str] | None) -> None:
    """Compare what was asked for with what the task has.

    Raises:
        UserError: There is no such metric.
    """
    for name in names or ():
        if name not in _METRICS[task]:
            raise UserError(
                f"model.metrics: there is no {name} for model.task {task}; there are {', '.join(_METRICS[task])}"
            )


def make_metrics(task: Task, names: Sequence[str] | None, num_classes: int, prefix: str) -> MetricCollection:
    """Metrics by name; None: those of the task.

    Top-5 is left out where there are no more than five classes, of which it says nothing.
    """
    chosen = [name for name in names or _DEFAULT[task] if name != "top5" or num_classes > 5]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*will save all targets and predictions.*")  # a number a sample
        metrics: dict[str, Metric | MetricCollection] = {name: _METRICS[task][name](num_classes) for name in chosen}
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)

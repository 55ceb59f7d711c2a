"""What a classifier says in words about the samples of a batch, and its metrics by name, for each kind of label."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

from jaxtyping import Float
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
SHOWN_ABOVE = 0.5  # probability of a label that a table of predictions names


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


def check_metrics(task: Task, names: Sequence[str]) -> None:
    """Compare what was asked for with what the task has.

    Raises:
        UserError: There is no such metric.
    """
    for name in names:
        if name not in _METRICS[task]:
            known = ", ".join(_METRICS[task])
            raise UserError(f"model.metrics: there is no {name} for model.task {task}; there are {known}")


def make_metrics(task: Task, names: Sequence[str], num_classes: int, prefix: str) -> MetricCollection:
    """Metrics by name; without names, those of the task.

    Top-5 is left out where there are no more than five classes, of which it says nothing.
    """
    metrics: dict[str, Metric | MetricCollection] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*will save all targets and predictions.*")  # a number a sample
        for name in names or _DEFAULT[task]:
            if name != "top5" or num_classes > 5:
                metrics[name] = _METRICS[task][name](num_classes)
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)


def describe(
    scores: Float[Tensor, "b c"], task: Task, names: Sequence[str], score_scale: float
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns of ``predictions.tsv``, and a text for each column, a tuple a sample.

    Args:
        scores: Of the head.
        task: What they are.
        names: Of the outputs.
        score_scale: What predictions of a regression are multiplied by.
    """
    rows: list[tuple[str, ...]] = []
    if task == "regression":
        for score in (scores[:, 0] * score_scale).tolist():
            rows.append((f"{score:.4f}",))
        return ("prediction",), rows
    if task == "single":
        best = scores.softmax(dim=1).max(dim=1)
        for index, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            rows.append((names[index], f"{probability:.4f}"))
        return ("prediction", "probability"), rows
    probabilities, order = scores.sigmoid().sort(dim=1, descending=True)
    counts = (probabilities > SHOWN_ABOVE).sum(dim=1).clamp(min=1)  # the best one in any case
    for sample, count in enumerate(counts.tolist()):
        shown = [names[index] for index in order[sample, :count].tolist()]
        stated = [f"{probability:.4f}" for probability in probabilities[sample, :count].tolist()]
        rows.append((",".join(shown), ",".join(stated)))
    return ("predictions", "probabilities"), rows


def describe_label(label: Any, task: Task, names: Sequence[str]) -> str:
    """The true label of a sample: the number of its class, its score, or a number for each class."""
    if task == "regression":
        return f"{label:g}"
    if task == "single":
        return names[label]
    return ",".join(name for name, holds in zip(names, label, strict=True) if holds)

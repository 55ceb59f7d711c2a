"""What a classifier says about the samples of a batch, in words: the columns of ``predictions.tsv``."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from d2v.finetuning.classifier_metrics import Task

SHOWN_ABOVE = 0.5  # probability of a label that a table of predictions names


def describe(
    scores: Float[Tensor, "b c"], task: Task, names: Sequence[str], score_scale: float
) -> tuple[tuple[str, ...], Sequence[tuple[str, ...]]]:
    """Columns and values that say what is predicted.

    Args:
        scores: Of the head.
        task: What they are.
        names: Of the outputs.
        score_scale: What predictions of a regression are multiplied by.
    """
    if task == "regression":
        return ("prediction",), [(f"{score:.4f}",) for score in (scores[:, 0] * score_scale).tolist()]
    if task == "single":
        best = scores.softmax(dim=1).max(dim=1)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return ("prediction", "probability"), [(names[i], f"{p:.4f}") for i, p in rows]
    order = scores.sigmoid().sort(dim=1, descending=True)
    values = []
    for indices, probabilities in zip(order.indices.tolist(), order.values.tolist(), strict=True):
        count = max(1, sum(p > SHOWN_ABOVE for p in probabilities))  # the best one in any case
        chosen = list(zip(indices, probabilities, strict=True))[:count]
        values.append((",".join(names[i] for i, _ in chosen), ",".join(f"{p:.4f}" for _, p in chosen)))
    return ("predictions", "probabilities"), values


def describe_labels(labels: Tensor, task: Task, names: Sequence[str]) -> list[str]:
    """The true classes, or scores, of a batch."""
    if task == "regression":
        return [f"{label:g}" for label in labels.tolist()]
    if task == "single":
        return [names[label] for label in labels.tolist()]
    return [",".join(name for name, on in zip(names, row, strict=True) if on) for row in labels.tolist()]

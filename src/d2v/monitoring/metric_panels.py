"""Which metrics are drawn together, and what their axis says."""

from dataclasses import dataclass

from d2v import metrics


@dataclass(frozen=True)
class Panel:
    """One plot."""

    title: str
    unit: str
    curves: dict[str, str]
    """Label in the legend, by the metric's name."""
    from_zero: bool = False
    """Whether the axis starts at 0, because the distance from 0 is what matters."""


LOSS = Panel(
    "Loss",
    "loss",
    {metrics.TRAIN_LOSS: "train", metrics.REGRESSION_LOSS: "train, regression", metrics.VAL_LOSS: "validation"},
)
SPREAD = Panel(
    "Collapse? Spread of single dimensions",
    "standard deviation",
    {metrics.TARGET_STD: "targets", metrics.PREDICTION_STD: "predictions"},
    from_zero=True,
)
RANKS = Panel(
    "Collapse? Dimensions in use",
    "effective rank",
    {metrics.TARGET_RANK: "targets", metrics.EXTRACTOR_RANK: "extractor"},
    from_zero=True,
)
PROBES = Panel(
    "Probe on frozen features", "top-1 accuracy / %", {metrics.KNN_TOP1: "kNN", metrics.LINEAR_TOP1: "linear"}
)
RATE = Panel("Learning rate", "learning rate", {metrics.LEARNING_RATE: "learning rate"}, from_zero=True)
TEACHER = Panel("Teacher", "1 - EMA decay", {metrics.EMA_DECAY: "1 - EMA decay"}, from_zero=True)
PANELS = (LOSS, SPREAD, RANKS, PROBES, RATE, TEACHER)

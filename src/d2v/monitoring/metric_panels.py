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
CLS_LOSS = Panel("CLS loss", "loss", {metrics.CLS_LOSS: "CLS"})
GRADIENT = Panel("Gradient before clipping", "norm", {metrics.GRAD_NORM: "norm"})
SKIPPED_UPDATES = Panel("Updates skipped", "updates", {metrics.SKIPPED_UPDATES: "skipped"}, from_zero=True)
MFU = Panel("Arithmetic", "share of what the device reaches (MFU)", {metrics.MFU: "MFU"}, from_zero=True)
PADDING = Panel("Padding", "share of what is computed", {metrics.PADDING_FRACTION: "padding"}, from_zero=True)
MASKED = Panel("Masked", "share of tokens", {metrics.MASKED_FRACTION: "masked"}, from_zero=True)
SKIPPED_SAMPLES = Panel("Samples that could not be read", "samples", {metrics.SKIPPED: "skipped"}, from_zero=True)
UNITS = {
    "images": "Images per second",
    "audio_seconds": "Seconds of sound per second",
    "tokens": "Tokens per second",
    "samples": "Samples per second",
}
"""In which data are counted, with the title of their throughput."""

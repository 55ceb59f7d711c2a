"""The curves of one run, from the CSV file that every run writes."""

import csv
import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from d2v import metrics
from d2v.errors import UserError

Curve = tuple[list[float], list[float]]
"""Steps and values."""


@dataclass(frozen=True)
class Panel:
    """One plot."""

    title: str
    unit: str
    curves: dict[str, str]
    """Label in the legend, by the metric's name."""
    from_zero: bool = False
    """Whether the axis starts at 0, because the distance from 0 is what matters."""


PANELS = (
    Panel(
        "Loss",
        "loss",
        {metrics.TRAIN_LOSS: "train", metrics.REGRESSION_LOSS: "train, regression", metrics.VAL_LOSS: "validation"},
    ),
    Panel(
        "Collapse? Spread of single dimensions",
        "standard deviation",
        {metrics.TARGET_STD: "targets", metrics.PREDICTION_STD: "predictions"},
        from_zero=True,
    ),
    Panel(
        "Collapse? Dimensions in use",
        "effective rank",
        {metrics.TARGET_RANK: "targets", metrics.EXTRACTOR_RANK: "extractor"},
        from_zero=True,
    ),
    Panel("Probe on frozen features", "top-1 accuracy / %", {metrics.KNN_TOP1: "kNN", metrics.LINEAR_TOP1: "linear"}),
    Panel("Learning rate", "learning rate", {metrics.LEARNING_RATE: "learning rate"}, from_zero=True),
    Panel("Teacher", "1 - EMA decay", {metrics.EMA_DECAY: "1 - EMA decay"}, from_zero=True),
)
_COLOURS = ("#1f5fa8", "#d1662b", "#3c8f5a", "#7a4fa3", "#a8871f", "#5a5a5a")
_DPI = 150


def draw_curves(metrics_csv: Path, path: Path) -> Path:
    """Draw loss, signs of collapse, probes and schedules over the optimizer steps, each in a panel if it was logged.

    Args:
        metrics_csv: As Lightning's CSVLogger writes it: a ``step`` column and sparse others.
        path: The PNG to write.

    Raises:
        UserError: The file has no step column, or nothing that a panel shows.
    """
    curves = read_curves(metrics_csv)
    panels = [panel for panel in PANELS if shown_curves(panel, curves)]
    if not panels:
        raise UserError(f"{metrics_csv}: no curve to draw; the columns with values are: {', '.join(sorted(curves))}")
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.4 * columns, 3.1 * rows), dpi=_DPI, layout="constrained")
    for index, panel in enumerate(panels):
        _draw_panel(figure.add_subplot(rows, columns, index + 1), panel, curves)
    figure.savefig(path, facecolor="white")
    return path


def read_curves(metrics_csv: Path) -> dict[str, Curve]:
    """Steps and finite values of each column; of several values at one step the last."""
    points: dict[str, dict[float, float]] = defaultdict(dict)
    with metrics_csv.open(newline="") as file:
        reader = csv.DictReader(file)
        if "step" not in (reader.fieldnames or ()):
            raise UserError(f"{metrics_csv}: there is no column `step`; is it a metrics.csv of a run?")
        for row in reader:
            for name, text in row.items():
                if name != "step" and text and row["step"] and math.isfinite(value := float(text)):
                    points[name][float(row["step"])] = value
    curves = {}
    for name, values in points.items():
        steps = sorted(values)
        curves[name] = (steps, [values[step] for step in steps])
    return curves


def shown_curves(panel: Panel, curves: dict[str, Curve]) -> dict[str, str]:
    """The curves of a panel that were logged, for each encoder of the method: label by name."""
    shown = {}
    for metric, label in panel.curves.items():
        for name in curves:
            encoder = name.removeprefix(f"{metric}/")
            if name == metric:
                shown[name] = label
            elif encoder != name:
                shown[name] = f"{label}, {encoder}"
    return shown


def _draw_panel(axes: Axes, panel: Panel, curves: dict[str, Curve]) -> None:
    shown = shown_curves(panel, curves)
    for colour, (name, label) in zip(cycle(_COLOURS), shown.items(), strict=False):
        steps, values = curves[name]
        is_probe = name.startswith("probe/")
        if name == metrics.EMA_DECAY:  # 0.9998 and 0.99999 look the same; their distances from 1 do not
            values = [1 - value for value in values]
        style = "-"
        if len(steps) == 1:
            style = "o"
        elif is_probe:
            style = "o-"
        if len(values) > 400:
            axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.25)
            values = _smooth(values)
        axes.plot(steps, values, style, color=colour, label=label, linewidth=1.5, markersize=3.5)
        if is_probe:
            axes.annotate(f"{values[-1]:.1f}", (steps[-1], values[-1]), (3, 3), textcoords="offset points", size=8)
    axes.set_title(panel.title, size=10, weight="bold", loc="left")
    axes.set_ylabel(panel.unit, size=9)
    axes.set_xlabel("optimizer step", size=9)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if panel.from_zero:
        axes.set_ylim(bottom=0)
    axes.margins(x=0.04)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(shown) > 1:
        axes.legend(fontsize=8, framealpha=0.8, edgecolor="none")


def _smooth(values: list[float]) -> list[float]:
    """Running mean over a hundredth of the curve; the window is shorter at both ends."""
    window = np.ones(2 * max(1, len(values) // 200) + 1)
    sums, counts = (np.convolve(each, window, "same") for each in (values, np.ones(len(values))))
    return (sums / counts).tolist()

"""The curves of one run, from the CSV file that every run writes."""

import math
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from d2v import metrics
from d2v.errors import UserError
from d2v.monitoring.logged_curves import LoggedCurve, read_curves
from d2v.monitoring.metric_panels import PANELS, Panel

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


def shown_curves(panel: Panel, curves: Mapping[str, LoggedCurve]) -> dict[str, str]:
    """The curves of a panel that were logged, for each encoder of the method: label by name."""
    shown = {}
    for metric, label in panel.curves.items():
        for name in curves:
            encoder = name.removeprefix(f"{metric}/")
            if not len(curves[name].steps):
                continue
            if name == metric:
                shown[name] = label
            elif encoder != name:
                shown[name] = f"{label}, {encoder}"
    return shown


def _draw_panel(axes: Axes, panel: Panel, curves: Mapping[str, LoggedCurve]) -> None:
    shown = shown_curves(panel, curves)
    for colour, (name, label) in zip(cycle(_COLOURS), shown.items(), strict=False):
        steps, values = curves[name].steps, curves[name].values
        is_probe = name.startswith("probe/")
        if name == metrics.EMA_DECAY:  # 0.9998 and 0.99999 look the same; their distances from 1 do not
            values = 1 - values
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


def _smooth(values: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Running mean over a hundredth of the curve; the window is shorter at both ends."""
    window = np.ones(2 * max(1, len(values) // 200) + 1)
    sums, counts = (np.convolve(each, window, "same") for each in (values, np.ones(len(values))))
    return sums / counts

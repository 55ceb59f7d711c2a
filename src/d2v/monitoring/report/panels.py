"""Which curves a page draws, and what of each."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from d2v import metrics
from d2v.monitoring.logged_curves import LoggedCurve
from d2v.monitoring.metric_panels import (
    CLS_LOSS,
    GRADIENT,
    LOSS,
    MASKED,
    MFU,
    PADDING,
    PROBES,
    RANKS,
    RATE,
    SKIPPED_SAMPLES,
    SKIPPED_UPDATES,
    SPREAD,
    TEACHER,
    UNITS,
    Panel,
)
from d2v.monitoring.report.markup import titled
from d2v.monitoring.report.run_record import RunRecord
from d2v.monitoring.report.thinned import thinned

_SPEEDS = tuple(Panel(title, "", {metrics.per_second(unit): title}, True) for unit, title in UNITS.items())
GROUPS: Mapping[str, Sequence[Panel]] = {
    "Learning": (LOSS, CLS_LOSS, PROBES),
    "Collapse": (SPREAD, RANKS),
    "Update": (RATE, GRADIENT, TEACHER, SKIPPED_UPDATES),
    "Time and data": (*_SPEEDS, MFU, PADDING, MASKED, SKIPPED_SAMPLES),
}
_GROUP_OF = {"val": "Learning", "test": "Learning", "throughput": "Time and data", "data": "Time and data"}
"""Of metrics that no panel names, by the first part of their names."""
_REST = "Other"
_NOT_DRAWN = {"epoch"}
_ALL_POINTS, _MOST, _LEAST = 30_000, 1_000, 100
_MOST_MARKS = 200


@dataclass(frozen=True)
class Series:
    """One line of a panel."""

    run: int
    metric: str
    """As it was logged."""
    label: str
    encoder: str
    curve: LoggedCurve


@dataclass(frozen=True)
class FilledPanel:
    """A panel with its lines, of one run or several."""

    group: str
    panel: Panel
    series: Sequence[Series]


def filled_panels(runs: Sequence[RunRecord]) -> list[FilledPanel]:
    """All that was logged, each metric in one panel.

    Of several joint runs each encoder has panels of its own, so that colours tell runs apart.
    """
    encoders = set()
    for run in runs:
        encoders |= set(run.encoders)
    filled: list[FilledPanel] = []
    drawn = set(_NOT_DRAWN)
    for group, panels in [*GROUPS.items()]:
        for panel in panels:
            series = list(_series_of(panel, runs, encoders))
            drawn |= {one.metric for one in series}
            filled += _split(group, panel, series, len(runs))
    rest: dict[str, None] = {}
    for run in runs:
        rest |= dict.fromkeys(name for name in run.curves if name not in drawn)
    bases: dict[str, None] = {}
    for name in rest:
        base, _, encoder = name.rpartition("/")
        bases[base if encoder in encoders else name] = None
    for name in bases:
        panel = Panel(name, "", {name: name.partition("/")[2] or name})
        group = _GROUP_OF.get(name.partition("/")[0], _REST)
        filled += _split(group, panel, list(_series_of(panel, runs, encoders)), len(runs))
    order = [*GROUPS, _REST]
    return sorted(filled, key=lambda panel: order.index(panel.group))


def _series_of(panel: Panel, runs: Sequence[RunRecord], encoders: set[str]) -> Iterator[Series]:
    for number, run in enumerate(runs):
        for metric, label in panel.curves.items():
            for encoder in ["", *sorted(encoders)]:
                name = metrics.of_encoder(metric, encoder)
                if name in run.curves:
                    yield Series(number, name, label, encoder, run.curves[name])


def _split(group: str, panel: Panel, series: Sequence[Series], num_runs: int) -> Iterator[FilledPanel]:
    by_encoder = defaultdict(list)
    for one in series:
        by_encoder[one.encoder if num_runs > 1 else ""].append(one)
    for encoder, some in by_encoder.items():
        title = panel.title.removeprefix(f"{group}? ")
        title = titled(title, encoder)
        yield FilledPanel(group, dataclasses.replace(panel, title=title), some)


def drawn_data(panels: Sequence[FilledPanel]) -> list[dict[str, Any]]:
    """What the page's script draws: a line's steps ``x`` and values ``y``, and of a thinned one ``lo`` and ``hi``."""
    total = sum(len(panel.series) for panel in panels)
    most = max(_LEAST, min(_MOST, _ALL_POINTS // max(total, 1)))
    drawn = []
    for panel in panels:
        lines = []
        for one in panel.series:
            line = thinned(one.curve, most)
            values, low, high = line.values, line.low, line.high
            if one.metric.startswith(metrics.EMA_DECAY):  # their distances from 1 tell them apart
                values = 1 - values
                if low is not None and high is not None:
                    low, high = 1 - high, 1 - low
            written = {"run": one.run, "label": one.label, "encoder": one.encoder}
            written |= {"x": _short(line.steps), "y": _short(values), "bad": _short(one.curve.not_finite[:_MOST_MARKS])}
            if low is not None and high is not None:
                written |= {"lo": _short(low), "hi": _short(high)}
            lines.append(written)
        drawn.append({"unit": panel.panel.unit, "zero": panel.panel.from_zero, "x": "optimizer step", "lines": lines})
    return drawn


def _short(values: Float64[np.ndarray, "n"]) -> list[float]:
    """For JSON: six digits that count, whole numbers without a point."""
    written: list[float] = []
    for value in values.tolist():
        rounded = round(value) if 1e6 <= abs(value) < 1e15 else float(f"{value:.6g}")
        is_whole = abs(rounded) < 1e15 and rounded == int(rounded)
        written.append(int(rounded) if is_whole else rounded)
    return written


def num_thinned(panels: Sequence[FilledPanel], drawn: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Points that were logged, and points that are drawn."""
    logged = points = 0
    for panel, data in zip(panels, drawn, strict=True):
        for one, line in zip(panel.series, data["lines"], strict=True):
            logged += len(one.curve.steps)
            points += len(line["x"])
    return logged, points

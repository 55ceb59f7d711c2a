"""The parts of a page that are words and tables; they can be read without JavaScript."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from d2v import metrics
from d2v.monitoring.logged_curves import LoggedCurve
from d2v.monitoring.report.markup import NOTHING, Markup, Section, chip, element, joined, number, table
from d2v.monitoring.report.panels import FilledPanel
from d2v.monitoring.report.run_record import RunRecord
from d2v.verdicts import FILE as VERDICTS

_RECENT = 0.2
"""Of the logged points: what is said of speed is the median of so many of the last."""


def overview(runs: Sequence[RunRecord]) -> Section:
    """One column a run: what a reader wants to know first."""
    columns = [_facts(run) for run in runs]
    facts: dict[str, None] = {}
    for column in columns:
        facts |= dict.fromkeys(column)
    rows = []
    for fact in facts:
        rows.append([fact, *(column.get(fact, NOTHING) for column in columns)])
    content = table(["", *(chip(index, run.name) for index, run in enumerate(runs))], rows, "facts")
    problems = [element("p", text, class_="bad") for run in runs for text in run.problems]
    return Section("overview", "At a glance", joined([content, *problems]))


def _facts(run: RunRecord) -> dict[str, object]:
    steps = f"{run.steps_done:,}"
    if run.steps_planned:
        steps += f" of {run.steps_planned:,} ({run.steps_done / run.steps_planned:.0%})"
    facts: dict[str, object] = {"state": _state(run), "optimizer steps": steps}
    for name, curve in run.curves.items():
        base, _, encoder = name.partition("/loss")
        if base in ("train", "val") and len(curve.values):
            facts[f"loss, {base}{encoder.replace('/', ' ')}"] = _from_to(curve)
    for name, curve in run.probes().items():
        facts[_probe_title(name)] = _gain(curve)
    for name, curve in run.curves.items():
        if name.startswith(metrics.TARGET_RANK) and len(curve.values):
            facts[f"effective rank of targets{_of(name, metrics.TARGET_RANK)}"] = _from_to(curve)
    for name, curve in run.curves.items():
        if name.startswith("throughput/") and len(curve.values):
            title = name.removeprefix("throughput/").replace("_per_second", " a second").replace("_", " ")
            title = title.replace("mfu", "MFU")
            facts[title.replace("/", ", ")] = number(_recent(curve))
    if run.starts:
        start = run.starts[-1]
        facts["parameters trained"] = f"{start.get('trained_parameters', 0) / 1e6:,.2f} million"
        facts["device"] = devices_of(start)
    facts["last written"] = when(run.last_written)
    return facts


def _state(run: RunRecord) -> Markup:
    kind = {"done": "good", "training now": "good", "stopped": "note"}.get(run.state, "bad")
    text = element("span", run.state, class_=f"state {kind}")
    if not run.curves:
        text = joined([text, " before its first line of metrics"])
    if run.why_ended:
        text = joined([text, element("small", run.why_ended)], " ")
    return text


def _from_to(curve: LoggedCurve) -> str:
    first, last = number(curve.values[0]), number(curve.values[-1])
    if len(curve.values) == 1:
        return last
    return f"{first} → {last}"


def _gain(curve: LoggedCurve) -> str:
    """A probe beside that of the untrained encoder, which is the one at step 0."""
    last = curve.values[-1]
    if curve.steps[0] != 0 or len(curve.values) == 1:
        return f"{last:.1f}%"
    return f"{curve.values[0]:.1f} → {last:.1f}% ({last - curve.values[0]:+.1f})"


def _recent(curve: LoggedCurve) -> float:
    return float(np.median(curve.values[-max(1, int(_RECENT * len(curve.values))) :]))


def _of(name: str, metric: str) -> str:
    encoder = name.removeprefix(metric).strip("/")
    if not encoder:
        return ""
    return f", {encoder}"


def _probe_title(name: str) -> str:
    if name.startswith(metrics.KNN_TOP1):
        return f"probe, kNN{_of(name, metrics.KNN_TOP1)}"
    return f"probe, linear{_of(name, metrics.LINEAR_TOP1)}"


def devices_of(start: Mapping[str, Any]) -> str:
    """The devices that a start has found, equal ones counted."""
    devices = [str(device) for device in start.get("devices") or ()]
    named = []
    for device in dict.fromkeys(devices):
        named.append(f"{devices.count(device)} x {device}".removeprefix("1 x "))
    return f"{start.get('device', '')}: {', '.join(named)}"


def when(seconds: float) -> str:
    """A time since 1970, as a date and the time of day here."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def verdicts(runs: Sequence[RunRecord]) -> Section:
    """What the monitor has found, and numbers that are none."""
    blocks: list[object] = []
    for index, run in enumerate(runs):
        found: list[object] = []
        for verdict in run.verdicts:
            step = f" at step {verdict['step']:,}" if isinstance(verdict.get("step"), int) else ""
            parts = [element("h4", str(verdict.get("fault", "fault")), element("small", step))]
            for key, title in (("what", ""), ("why", "Why: "), ("cure", "Cure: ")):
                if verdict.get(key):
                    parts.append(element("p", element("b", title), str(verdict[key])))
            found.append(element("article", *parts, class_="verdict"))
        for name, curve in run.curves.items():
            if len(curve.not_finite):
                times = f"{len(curve.not_finite):,} logged steps, first at step {int(curve.not_finite[0]):,}"
                found.append(element("p", element("code", name), f" is no finite number at {times}", class_="bad"))
        if not found and (run.folder / VERDICTS).is_file():
            found = [element("p", "The monitor has found nothing wrong.")]
        elif not found:
            found = [element("p", f"Nothing: the run's folder has no {VERDICTS}, and all that was logged is finite.")]
        blocks += [run_title(runs, index), *found]
    return Section("verdicts", "What the monitor says", joined(blocks))


def run_title(runs: Sequence[RunRecord], index: int) -> Markup:
    """A heading above what is said of one of several runs."""
    if len(runs) == 1:
        return Markup()
    return element("h3", chip(index, runs[index].name))


def figures(panels: Sequence[FilledPanel], runs: Sequence[RunRecord]) -> Markup:
    """The curves in figures, for readers and for browsers without JavaScript."""
    rows: dict[str, list[object]] = {}
    for panel in panels:
        for one in panel.series:
            if len(one.curve.values):
                row = rows.setdefault(one.metric, [NOTHING] * len(runs))
                least, largest = number(one.curve.values.min()), number(one.curve.values.max())
                row[one.run] = f"{_from_to(one.curve)}  ({least} to {largest})"
    lines = [[element("code", name), *cells] for name, cells in rows.items()]
    if not lines:
        return element("p", "Nothing was logged yet.")
    head = ["metric: first → last (least to largest)", *(chip(index, run.name) for index, run in enumerate(runs))]
    return element("details", element("summary", "The curves in figures"), table(head, lines))


def probes(runs: Sequence[RunRecord]) -> Section:
    """Each probe beside the untrained encoder."""
    rows = []
    for index, run in enumerate(runs):
        for name, curve in run.probes().items():
            best = int(curve.values.argmax())
            has_baseline = curve.steps[0] == 0
            baseline, gain = NOTHING, NOTHING
            if has_baseline:
                baseline = f"{curve.values[0]:.1f}"
                gain = f"{curve.values[-1] - curve.values[0]:+.1f}"
            at_best = f"{curve.values[best]:.1f} at step {int(curve.steps[best]):,}"
            rows.append([chip(index, run.name), _probe_title(name), baseline, f"{curve.values[-1]:.1f}", gain, at_best])
    if not rows:
        text = "No probe was made while it trained (ProbeCallback); `d2v probe --checkpoint RUN` makes one."
        return Section("probes", "Probes", element("p", text))
    head = ["run", "top-1 accuracy / %", "untrained", "last", "gain", "best"]
    return Section("probes", "Probes beside the untrained encoder", table(head, rows))

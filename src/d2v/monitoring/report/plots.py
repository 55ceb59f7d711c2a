"""Where the page's script draws, and what it listens to."""

from collections.abc import Sequence

from d2v.monitoring.report.markup import Markup, chip, element, joined
from d2v.monitoring.report.panels import FilledPanel
from d2v.monitoring.report.run_record import RunRecord
from d2v.monitoring.report.sections import figures


def curves(runs: Sequence[RunRecord], panels: Sequence[FilledPanel], thinned: tuple[int, int]) -> Markup:
    """The curves by groups, with what is said of them in words.

    Args:
        runs: Of the page.
        panels: What is drawn.
        thinned: How many points were logged, and how many are drawn.
    """
    frames: dict[str, list[Markup]] = {}
    for number, panel in enumerate(panels):
        frames.setdefault(panel.group, []).append(_frame(number, panel.panel.title, panel.panel.unit))
    blocks: list[object] = []
    for group, some in frames.items():
        blocks += [element("h3", group), element("div", *some, class_="panels")]
    logged, points = thinned
    if points < logged:
        told = (
            f"{logged:,} logged points are drawn as {points:,}, on purpose: each long curve in stretches of equal "
            "length. The line is the mean of a stretch, and the band goes from its least to its largest value, so no "
            "spike is lost."
        )
        blocks.append(element("p", told, class_="note"))
    return joined([_controls(runs), *blocks, figures(panels, runs)])


def _controls(runs: Sequence[RunRecord]) -> Markup:
    """What the script listens to; hidden without it."""
    switches = []
    if len(runs) > 1:
        for index, run in enumerate(runs):
            box = element("input", type="checkbox", checked=True, data_run=index)
            switches.append(element("label", box, chip(index, run.name)))
    smoothing = element("input", type="range", min=0, max=0.99, step=0.01, value=0, id="smoothing")
    log = element("input", type="checkbox", id="log")
    hint = element("small", "drag to zoom, double-click to go back")
    return element(
        "div",
        *switches,
        element("label", "smoothing ", smoothing, element("output", "0", for_="smoothing")),
        element("label", log, "log scale"),
        element("button", "whole run", type="button", id="whole"),
        hint,
        class_="controls js",
    )


def _frame(number: int, title: str, unit: str) -> Markup:
    """Where the script draws a panel."""
    caption = element("figcaption", title, " ", element("small", unit))
    plot, legend = element("div", class_="plot"), element("div", class_="legend")
    return element("figure", caption, plot, legend, data_panel=number, class_="panel")


def spectrum(first: int, titles: Sequence[str]) -> Markup:
    """The panels of spectra, whose numbers begin with ``first``."""
    if not titles:
        return element("p", "The run's folder holds none (MediaCallback writes them); the ranks are among the curves.")
    frames = [_frame(first + number, title, "share of the variance") for number, title in enumerate(titles)]
    text = "How much of the variance each direction has, the strongest first. A collapse is a line that falls steeply."
    return joined([element("p", text), element("div", *frames, class_="panels")])

"""What a dashboard shows: every metric and every kind of media of ``metrics.py``, in sections."""

from collections.abc import Mapping, Sequence

from d2v import metrics
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
    UNITS,
    Panel,
)

MEDIA = ("vision", "speech", "text", "audio")
"""What the encoders of a joint run are usually called."""


def _panel(title: str, unit: str, *names: str, from_zero: bool = True) -> Panel:
    """W&B labels lines by their metrics."""
    return Panel(title, unit, dict.fromkeys(names, ""), from_zero)


_SHARE = "share"
EXPLAINED = _panel("Variance explained", "share of the targets' variance", metrics.EXPLAINED, from_zero=False)
UPDATE = _panel("Size of an update", "share of the weights", metrics.UPDATE_SIZE, from_zero=False)
SPEED = _panel("Speed", "of each unit, per second", *map(metrics.per_second, UNITS))
LOGARITHMIC = (GRADIENT, UPDATE, SPEED)
"""Panels whose axis is."""
SECTIONS: Mapping[str, Sequence[Panel]] = {
    "Learning": (
        LOSS,
        EXPLAINED,
        RATE,
        CLS_LOSS,
        GRADIENT,
        UPDATE,
        _panel("Size of the weights", "root mean square", metrics.WEIGHT_SIZE),
        _panel("Growth of the weights", "over their first size", metrics.WEIGHT_GROWTH, from_zero=False),
        _panel("Weights that did not move", "share of the weights", metrics.STILL_FRACTION),
        MASKED,
        SKIPPED_UPDATES,
        _panel("Scale of the loss (fp16)", "factor", metrics.LOSS_SCALE),
        _panel("Loss on the test split", "loss", metrics.TEST_LOSS, from_zero=False),
    ),
    "Collapse": (
        SPREAD,
        RANKS,
        _panel("Deviation within a target", "1 behind a layer norm", metrics.TARGET_SIZE),
    ),
    "Teacher": (
        _panel("EMA decay", "decay", metrics.EMA_DECAY, from_zero=False),
        _panel("Distance from the student", "share of the weights", metrics.TEACHER_DISTANCE),
        _panel("Way to the student in a step", _SHARE, metrics.TEACHER_RATE),
    ),
    "Throughput": (SPEED, MFU, PADDING, _panel("Waits for data", "share of the time", metrics.WAIT_FRACTION)),
    "Data": (
        _panel("Samples in a step", "of all devices", metrics.SAMPLES),
        SKIPPED_SAMPLES,
        _panel("Copies in a batch", _SHARE, metrics.DUPLICATE_FRACTION, metrics.DUPLICATE_FILES),
        _panel("Inputs of one value", _SHARE, metrics.CONSTANT_FRACTION),
        _panel("Pictures: how alike in a batch", "correlation", metrics.LIKENESS, from_zero=False),
        _panel("Pictures: dark and bright pixels", "value", metrics.PIXEL_LOW, metrics.PIXEL_HIGH, from_zero=False),
        _panel("Sound: different levels", "of 4,096 values", metrics.LEVELS),
        _panel("Sound: clipped", "share of the values", metrics.CLIPPED_FRACTION),
        _panel("Sound: pitch of speech", "Hz", metrics.PITCH),
        _panel("Sound: high bands over low ones", "deviations", metrics.HIGH_BANDS, from_zero=False),
        _panel("Text: different tokens", "exponential of the entropy", metrics.TOKEN_TYPES),
    ),
    "Probes": (PROBES,),
}
MEDIA_SECTION = "Media"
COMPARED: Sequence[Panel] = (PROBES, EXPLAINED, RANKS, SPREAD, RATE, SPEED, MFU)
"""What a report draws of several recipes. Losses are not among them: of other targets they mean other things."""


def pattern(panel: Panel) -> str:
    """The regular expression of a panel's metrics: as they are, or of any encoder of a joint run."""
    return f"^({'|'.join(panel.curves)})(/[^/]+)?$"


def media_keys(metric: str, media: Sequence[str]) -> list[str]:
    """The names of a kind of media: as it is, and of each encoder. W&B takes no regular expression for these."""
    return [metrics.of_encoder(metric, encoder) for encoder in ("", *media)]


def _line(panel: Panel) -> str:
    return f"{panel.title} ({panel.unit}): {', '.join(panel.curves)}"


def outline(media: Sequence[str]) -> str:
    """The dashboard in lines of text: section, panel, metrics."""
    lines = []
    for section, panels in SECTIONS.items():
        lines.append(section)
        for panel in panels:
            lines.append(f"    {_line(panel)}")
    lines.append(MEDIA_SECTION)
    for metric, title in metrics.media_titles().items():
        lines.append(f"    {title}: {metric}")
    lines += [
        f"of a joint run also those that end in /{', /'.join(media)}",
        "",
        "Report: recipes compared",
        "    the runs with what differs between their configs",
    ]
    for panel in COMPARED:
        lines.append(f"    {_line(panel)}")
    return "\n".join(lines)

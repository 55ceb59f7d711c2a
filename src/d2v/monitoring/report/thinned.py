"""Long curves, thinned on purpose: nobody's screen has a million columns."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from d2v.monitoring.logged_curves import LoggedCurve


@dataclass(frozen=True)
class DrawnCurve:
    """What a page draws of a curve."""

    steps: Float64[np.ndarray, "n"]
    values: Float64[np.ndarray, "n"]
    """Those that were logged; of a thinned curve the mean of each stretch."""
    low: Float64[np.ndarray, "n"] | None = None
    """Of a thinned curve the least value of each stretch; None: all points are there."""
    high: Float64[np.ndarray, "n"] | None = None
    """And the largest."""


def thinned(curve: LoggedCurve, most: int) -> DrawnCurve:
    """A curve as at most so many points, each for a stretch of equal length: its mean, its least and its largest value.

    No spike is lost: it is in the least or the largest value of its stretch.
    """
    steps, values = curve.steps, curve.values
    if len(steps) <= most:
        return DrawnCurve(steps, values)
    first, span = steps[0], steps[-1] - steps[0]
    stretch = np.minimum((steps - first) * (most / span), most - 1).astype(np.int64)
    starts = np.flatnonzero(np.append(True, stretch[1:] != stretch[:-1]))
    counts = np.diff(np.append(starts, len(steps)))
    return DrawnCurve(
        np.add.reduceat(steps, starts) / counts,
        np.add.reduceat(values, starts) / counts,
        np.minimum.reduceat(values, starts),
        np.maximum.reduceat(values, starts),
    )

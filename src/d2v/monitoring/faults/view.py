"""What rules read of a history: the values of one encoder, or those of the whole run."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from d2v import metrics
from d2v.verdicts import History, Settings

LEAST_ROWS = 3  # logged steps that a judgement rests on


@dataclass(frozen=True)
class View:
    """Values of a history by the names of metrics, without that of the encoder."""

    history: History
    encoder: str = ""

    @property
    def settings(self) -> Settings:
        return self.history.settings

    @property
    def steps(self) -> int:
        """Optimizer steps since the run began."""
        return self.history.step - self.settings.first_step

    def of(self, metric: str) -> list[tuple[int, float]]:
        """Steps and values, those that are no number left out; of the encoder, or else of the whole run."""
        found = self.history.of(metrics.of_encoder(metric, self.encoder)) or self.history.of(metric)
        return [(step, value) for step, value in found if not math.isnan(value)]

    def values(self, metric: str) -> list[float]:
        return [value for _, value in self.of(metric)]

    def first(self, metric: str) -> float | None:
        values = self.values(metric)
        return values[0] if values else None

    def last(self, metric: str) -> float | None:
        values = self.values(metric)
        return values[-1] if values else None

    def largest(self, metric: str) -> float | None:
        return self._over(metric, max)

    def median(self, metric: str, latest: int | None = None) -> float | None:
        """Of all, or of so many of the latest; None of fewer than three."""
        return self._over(metric, statistics.median, latest)

    def _over(self, metric: str, of: Callable[[Sequence[float]], float], latest: int | None = None) -> float | None:
        values = self.values(metric)
        if latest is not None:
            values = values[-latest:]
        return float(of(values)) if len(values) >= LEAST_ROWS else None

    def at_peak(self) -> float:
        """Steps so far, each weighed by its share of the peak learning rate: how much could have been learned."""
        total, before = 0.0, self.settings.first_step
        for step, rate in self.of(metrics.LEARNING_RATE):
            total += (step - before) * rate / max(self.settings.peak_lr, 1e-30)
            before = step
        return total


def encoders_of(history: History) -> list[str]:
    """Names of the encoders that were logged; an only one is called ``""``."""
    names: dict[str, None] = {}
    for _, row in history.rows:
        for metric in row:
            base, _, name = metric.partition(f"{metrics.TARGET_SIZE}/")
            if name and not base:
                names[name] = None
    return list(names) or [""]

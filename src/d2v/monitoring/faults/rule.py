"""A rule: a figure of a run, the limit beyond which it is a fault, and what is said then."""

from collections.abc import Callable
from dataclasses import dataclass

from d2v.monitoring.faults.view import View
from d2v.verdicts import Verdict


@dataclass(frozen=True)
class Limit:
    """Where healthy ends.

    Args:
        worst: Of all healthy runs (benchmarks/monitor.md), the figure that came nearest to being a fault.
        at: From here on it is one.
        above: Whether a fault is a figure that is too large.
    """

    worst: float
    at: float
    above: bool = True

    def is_passed(self, value: float) -> bool:
        return value >= self.at if self.above else value <= self.at


@dataclass(frozen=True)
class Rule:
    """Text is formatted with the figure as ``value``, the worst healthy one as ``healthy``, and ``view``.

    Args:
        fault: Its short name.
        figure: None where there is nothing to judge.
        limit: Of the figure.
        what: What is wrong.
        why: The numbers.
        cure: What to change.
        of_run: Whether it is the same for all encoders.
        causes: Faults that this one brings with it, which are then not said.
    """

    fault: str
    figure: Callable[[View], float | None]
    limit: Limit
    what: str
    why: str
    cure: str
    of_run: bool = False
    causes: tuple[str, ...] = ()

    def verdict(self, view: View) -> Verdict | None:
        value = self.figure(view)
        if value is None or not self.limit.is_passed(value):
            return None
        name = f"{self.fault}/{view.encoder}" if view.encoder and not self.of_run else self.fault
        told = {"value": value, "healthy": self.limit.worst, "settings": view.settings, "view": view}
        what = f"{view.encoder}: {self.what}" if view.encoder and not self.of_run else self.what
        return Verdict(view.history.step, name, what, self.why.format(**told), self.cure.format(**told))

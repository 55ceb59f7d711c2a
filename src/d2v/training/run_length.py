"""How long a run is to be: what the key ``length`` means."""

import math
import re
from dataclasses import dataclass

from d2v.errors import UserError

# The rule of `auto`: steps = AUTO_FACTOR x sqrt(steps that one pass over the data takes), kept between two bounds.
AUTO_FACTOR = 250
AUTO_LEAST, AUTO_MOST = 1_000, 100_000

_SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "day": 86_400}
_AMOUNT = re.compile(r"([\d.]+) *([a-z]+)")


@dataclass(frozen=True)
class RunLength:
    """One of three is set; none of them: from the size of the data.

    Args:
        steps: Optimizer steps.
        passes: Over the training data.
        seconds: Of the whole run, validation included.
    """

    steps: int | None = None
    passes: float | None = None
    seconds: float | None = None

    def in_steps(self, passes_per_step: float) -> int | None:
        """Optimizer steps, if one sees such a share of the data; None for a time."""
        if self.seconds is not None:
            return None
        if self.steps is not None:
            return self.steps
        if self.passes is not None:
            return max(1, math.ceil(self.passes / passes_per_step))
        return round(min(max(AUTO_FACTOR * math.sqrt(1 / passes_per_step), AUTO_LEAST), AUTO_MOST))


def read_length(value: str | int) -> RunLength:
    """Read ``auto``, ``100 epochs``, ``20 minutes``, ``1 hour 30 minutes``, ``5000 steps`` or a number of steps.

    Raises:
        UserError: It is none of these, or not above zero.
    """
    text = str(value).strip().lower().replace(",", "").replace("_", "")
    if text == "auto":
        return RunLength()
    if text.isdecimal():
        text += " steps"
    amounts = []
    for number, unit in _AMOUNT.findall(text):
        amounts.append((float(number) if number.count(".") < 2 and number != "." else 0.0, unit))
    units = {unit if unit in _SECONDS else unit.removesuffix("s") for _, unit in amounts}
    total = sum(number for number, _ in amounts)
    if not _AMOUNT.sub("", text).strip() and total > 0:
        if units == {"step"} and total == int(total):
            return RunLength(steps=int(total))
        if units == {"epoch"}:
            return RunLength(passes=total)
        if units <= _SECONDS.keys():
            seconds = 0.0
            for number, unit in amounts:
                seconds += number * _SECONDS.get(unit, _SECONDS.get(unit.removesuffix("s"), 0))
            return RunLength(seconds=seconds)
    raise UserError(
        f"length is {value!r}: give auto, or a number above 0 with its unit, such as '100 epochs', '20 minutes', "
        "'2 hours' or '5000 steps'"
    )

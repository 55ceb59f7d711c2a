"""How long a run is to be: what the key ``length`` means."""

import math
import re
from dataclasses import dataclass

from d2v.errors import UserError

# The rule of `auto`: steps = AUTO_FACTOR x sqrt(steps that one pass over the data takes), kept between two bounds.
AUTO_FACTOR = 50
AUTO_LEAST, AUTO_MOST = 1_000, 100_000

_SECONDS = {"sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "day": 86_400}


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

    def in_steps(self, passes_per_step: float) -> int:
        """Optimizer steps, where it is not a time, if one step sees such a share of the data.

        Raises:
            UserError: A share of a pass is less than one step.
        """
        if self.steps is not None:
            return self.steps
        if self.passes is not None:
            if self.passes < min(1, passes_per_step):
                text = f"one step is {passes_per_step:.3g} epochs already: give that or more"
                raise UserError(f"length is {self.passes:g} epochs: {text}")
            return max(1, math.ceil(self.passes / passes_per_step))
        return round(min(max(AUTO_FACTOR * math.sqrt(1 / passes_per_step), AUTO_LEAST), AUTO_MOST))


def read_length(value: str | int) -> RunLength:
    """Read ``auto``, ``100 epochs``, ``20 minutes``, ``1.5 hours``, ``5000 steps`` or a number of steps.

    Raises:
        UserError: It is none of these, or not above zero.
    """
    text = str(value).strip().lower().replace(",", "")
    if text == "auto":
        return RunLength()
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([a-z]*)", text)
    number, unit = (float(found[1]), found[2]) if found else (0.0, "")
    if number > 0:
        if unit in ("", "step", "steps") and number == int(number):
            return RunLength(steps=int(number))
        if unit in ("epoch", "epochs"):
            return RunLength(passes=number)
        if unit.removesuffix("s") in _SECONDS:
            return RunLength(seconds=number * _SECONDS[unit.removesuffix("s")])
    raise UserError(
        f"length is {value!r}: give auto, or a number above 0 with its unit, such as '100 epochs', '20 minutes', "
        "'2 hours' or '5000 steps'"
    )

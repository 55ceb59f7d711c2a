"""Skips updates whose gradients are far larger than usual."""

from typing import Any

import lightning as L
import numpy as np

from d2v.errors import UserError


class SkipSpikes(L.Callback):
    """An update whose gradients are far larger than those of the updates before it is skipped, as one is that is not
    finite: it moves nothing, its samples are named, and ten in a row stop the run.

    This is OLMo-core's ``SkipStepOptimizer`` (``sigma_factor`` 6, ``rolling_interval_length`` 128), with two
    differences. It looks at the norm of the gradients alone, before clipping: that is what would move the weights, all
    devices have the same, and the host reads it at each step anyway. And what was skipped does not count as usual.

    Args:
        deviations: So many standard deviations above the mean are too far.
        window: Updates that mean and deviation are of; until there were half as many, nothing is skipped.

    Raises:
        UserError: An argument has no meaning.
    """

    def __init__(self, deviations: float = 6.0, window: int = 128) -> None:
        if not deviations > 0 or window < 4:
            raise UserError(f"SkipSpikes: deviations {deviations:g} must be above 0, and window {window} at least 4")
        self.deviations = deviations
        self.window = window
        self._norms: list[float] = []

    def objection(self, norm: float) -> str:
        """Why an update whose gradients have this norm is to be skipped; else empty, and it counts as usual."""
        if len(self._norms) >= self.window // 2:
            mean, deviation = float(np.mean(self._norms)), float(np.std(self._norms, ddof=1))
            if norm > mean + self.deviations * deviation:
                return (
                    f"the norm of the gradients, {norm:.4g}, is more than {self.deviations:g} deviations "
                    f"({deviation:.2g}) above {mean:.4g}, the mean of the last {len(self._norms)} updates"
                )
        self._norms = [*self._norms, norm][-self.window :]
        return ""

    def state_dict(self) -> dict[str, Any]:
        return {"norms": self._norms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._norms = state_dict["norms"][-self.window :]

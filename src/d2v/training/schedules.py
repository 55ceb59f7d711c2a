"""Schedules as plain functions of the optimizer steps done and of those of the whole run: learning rate, EMA decay."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from d2v.errors import UserError


def in_steps(value: float, total_steps: int) -> int:
    """Optimizer steps that a value of a recipe means: below 1 it is a share of the run, from 1 on it is the steps."""
    return round(value * total_steps) if value < 1 else int(value)


def require_share_or_steps(name: str, value: float) -> None:
    """Refuse what :func:`in_steps` cannot read.

    Raises:
        UserError: It is negative, or a broken number of steps.
    """
    if value < 0 or (value >= 1 and value != int(value)):
        raise UserError(f"{name} is {value:g}: give a share of the run, from 0 to below 1, or whole steps, 1 or more")


class LRSchedule(ABC):
    """Factor of the peak learning rate as a function of the optimizer steps done."""

    @abstractmethod
    def factor(self, step: int, total_steps: int) -> float:
        """Factor for the update after ``step`` updates, of a run of ``total_steps``."""

    def warmup_steps(self, total_steps: int) -> int:
        """Updates until the peak, in a run of ``total_steps``."""
        return 0


@dataclass(frozen=True)
class WarmupCosine(LRSchedule):
    """Linear warm-up, then half a cosine to the end (fairseq's ``cosine``, BEiT's ``cosine_scheduler``).

    fairseq starts a new cycle at exactly the last update, with the peak rate; here the end stays the end.

    Args:
        warmup: Until the peak: a share of the run below 1, or 1 and more updates.
        start_factor: At step 0, as a share of the peak.
        end_factor: At the end, as a share of the peak.
    """

    warmup: float = 0
    start_factor: float = 0.0
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        require_share_or_steps("warmup", self.warmup)

    def warmup_steps(self, total_steps: int) -> int:
        return in_steps(self.warmup, total_steps)

    def factor(self, step: int, total_steps: int) -> float:
        warmup = self.warmup_steps(total_steps)
        if step < warmup:
            return self.start_factor + (1 - self.start_factor) * step / warmup
        progress = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
        return self.end_factor + (1 - self.end_factor) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class WarmupLinear(LRSchedule):
    """Linear warm-up, then linear to zero (fairseq's ``polynomial_decay`` with its power of 1).

    Args:
        warmup: Share of all updates until the peak.
    """

    warmup: float = 0.06

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be at least 0 and less than 1, not {self.warmup}")

    def warmup_steps(self, total_steps: int) -> int:
        return int(self.warmup * total_steps)

    def factor(self, step: int, total_steps: int) -> float:
        warmup = self.warmup_steps(total_steps)
        if step < warmup:
            return step / warmup
        return max(0.0, (total_steps - step) / max(total_steps - warmup, 1))


@dataclass(frozen=True)
class TriStage(LRSchedule):
    """Linear warm-up, constant, exponential decay (fairseq's ``tri_stage``).

    Args:
        warmup: Share of all updates; the three shares add up to 1.
        hold: Likewise.
        decay: Likewise.
        start_factor: At step 0, as a share of the peak.
        end_factor: At the end, as a share of the peak.
    """

    warmup: float
    hold: float
    decay: float
    start_factor: float = 0.01
    end_factor: float = 0.01

    def __post_init__(self) -> None:
        shares = (self.warmup, self.hold, self.decay)
        if not (math.isclose(sum(shares), 1.0) and min(shares) >= 0):
            text = "warmup, hold and decay must be shares of the run that add up to 1"
            raise ValueError(f"{text}, not {self.warmup:g}, {self.hold:g} and {self.decay:g}")
        if self.end_factor <= 0:
            raise ValueError(f"end_factor must be above 0 for an exponential decay, not {self.end_factor}")

    def warmup_steps(self, total_steps: int) -> int:
        return int(self.warmup * total_steps)

    def factor(self, step: int, total_steps: int) -> float:
        warmup, hold = self.warmup_steps(total_steps), int(self.hold * total_steps)
        decay = int(self.decay * total_steps)
        if step < warmup:
            return self.start_factor + (1 - self.start_factor) * step / warmup
        if step < warmup + hold or decay == 0:
            return 1.0
        return float(self.end_factor ** min((step - warmup - hold) / decay, 1.0))


@dataclass(frozen=True)
class EMADecay:
    """Decay of the teacher's moving average: linear from ``start`` to ``end`` (1.0, section 3.3).

    Args:
        start: Decay before the first update.
        end: Decay after the anneal.
        anneal: Between the two: a share of the run below 1, or 1 and more optimizer steps; 0: ``end`` throughout.
    """

    start: float
    end: float
    anneal: float

    def __post_init__(self) -> None:
        if not 0 <= self.start <= 1 or not 0 <= self.end <= 1:
            raise ValueError(f"EMA decays lie between 0 and 1, not {self.start} and {self.end}")
        require_share_or_steps("anneal", self.anneal)
        if self.end == 1 and (self.start == 1 or self.anneal == 0):  # published ones reach 1 by their last step
            raise ValueError(
                "a decay of 1 throughout: the teacher would never move; give a smaller start, or an anneal"
            )

    def at(self, step: int, total_steps: int) -> float:
        """Decay of the EMA update that follows optimizer step ``step``, counted from 1, of a run of ``total_steps``."""
        anneal = in_steps(self.anneal, total_steps)
        if step >= anneal:
            return self.end
        return self.end - (self.end - self.start) * (1 - step / anneal)

    def share_of_start(self, total_steps: int) -> float:
        """How much of the teacher is still what the run started with after its last step."""
        every = max(1, total_steps // 1000)  # a thousand of the decays tell
        moved = sum(1 - self.at(step, total_steps) for step in range(1, total_steps + 1, every))
        return math.exp(-moved * every)

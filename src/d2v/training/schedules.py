"""Schedules as plain functions of the number of optimizer steps done: learning rate and EMA decay."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


class LRSchedule(ABC):
    """Factor of the peak learning rate as a function of the optimizer steps done."""

    @abstractmethod
    def factor(self, step: int, total_steps: int) -> float:
        """Factor for the update after ``step`` updates, of a run of ``total_steps``."""


@dataclass(frozen=True)
class WarmupCosine(LRSchedule):
    """Linear warm-up, then half a cosine to the end (fairseq's ``cosine``, BEiT's ``cosine_scheduler``).

    fairseq starts a new cycle at exactly the last update, with the peak rate; here the end stays the end.

    Args:
        warmup_steps: Updates until the peak.
        start_factor: At step 0, as a share of the peak.
        end_factor: At the end, as a share of the peak.
    """

    warmup_steps: int = 0
    start_factor: float = 0.0
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative: {self.warmup_steps}")

    def factor(self, step: int, total_steps: int) -> float:
        if step < self.warmup_steps:
            return self.start_factor + (1 - self.start_factor) * step / self.warmup_steps
        progress = min((step - self.warmup_steps) / max(total_steps - self.warmup_steps, 1), 1.0)
        return self.end_factor + (1 - self.end_factor) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class WarmupLinear(LRSchedule):
    """Linear warm-up, then linear to zero (fairseq's ``polynomial_decay`` with its power of 1).

    Args:
        warmup: Share of all updates until the peak, so that it fits a run whose length is stated in epochs.
    """

    warmup: float = 0.06

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be at least 0 and less than 1, not {self.warmup}")

    def factor(self, step: int, total_steps: int) -> float:
        warmup = int(self.warmup * total_steps)
        if step < warmup:
            return step / warmup
        return max(0.0, (total_steps - step) / max(total_steps - warmup, 1))


@dataclass(frozen=True)
class TriStage(LRSchedule):
    """Linear warm-up, constant, exponential decay (fairseq's ``tri_stage``).

    Args:
        warmup, hold, decay: Shares of all updates; they add up to 1.
        start_factor: At step 0, as a share of the peak.
        end_factor: At the end, as a share of the peak.
    """

    warmup: float
    hold: float
    decay: float
    start_factor: float = 0.01
    end_factor: float = 0.01

    def __post_init__(self) -> None:
        total = self.warmup + self.hold + self.decay
        if not math.isclose(total, 1.0):
            raise ValueError(f"warmup, hold and decay must add up to 1, not to {total:g}")
        if self.end_factor <= 0:
            raise ValueError(f"end_factor must be above 0 for an exponential decay, not {self.end_factor}")

    def factor(self, step: int, total_steps: int) -> float:
        warmup, hold = int(self.warmup * total_steps), int(self.hold * total_steps)
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
        end: Decay from ``anneal_steps`` on.
        anneal_steps: Optimizer steps between the two; 0: ``end`` from the beginning.
    """

    start: float
    end: float
    anneal_steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= 1 or not 0 <= self.end <= 1:
            raise ValueError(f"EMA decays lie between 0 and 1, not {self.start} and {self.end}")

    def at(self, step: int) -> float:
        """Decay of the EMA update that follows optimizer step ``step``, counted from 1."""
        if step >= self.anneal_steps:
            return self.end
        return self.end - (self.end - self.start) * (1 - step / self.anneal_steps)

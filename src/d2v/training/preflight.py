"""What a run is going to be, in a line, and what makes no sense about it, before its first step."""

from dataclasses import dataclass

import lightning as L

from d2v.data.batching import TrainingSize, plain_number
from d2v.errors import UserError
from d2v.training.run_length import RunLength
from d2v.training.schedules import EMADecay, LRSchedule, in_steps

LEAST_PEAK = 0.1  # a learning rate that stays below this share of its peak teaches nothing
MOST_UNTRAINED = 0.2  # share of a teacher that may still be the untrained network at the end
MOST_PASSES = 2_000


@dataclass(frozen=True)
class Preflight:
    """Compares the schedules of a module with the length of its run.

    Args:
        module: Its ``schedule``, ``ema`` and ``freeze_encoder_steps`` are looked at, where it has them.
        steps: Optimizer steps of the run.
        size: Of the training data, if it is known.
        length: The key ``length``; None: the limits of the trainer.
    """

    module: L.LightningModule
    steps: int
    size: TrainingSize | None
    length: RunLength | None

    def check(self) -> None:
        """Refuse what cannot learn anything.

        Raises:
            UserError: There is no step, or the learning rate hardly rises.
        """
        if self.steps < 1 or (self.size is not None and self.size.steps_per_epoch < 1):
            raise UserError(
                "the run has no step: trainer.max_steps, trainer.max_epochs or trainer.limit_train_batches is 0, or "
                "the training data give no batch"
            )
        if self._warmup > self.steps / LEAST_PEAK:
            raise UserError(f"{self._long_warmup()}, so that next to nothing is learned. Set it to a share of the run")

    def plan(self) -> str:
        """Steps, passes over the data, warm-up and anneal."""
        text = f"plan: {self.steps:,} steps"
        if self.size is not None:
            passes = plain_number(float(f"{self._passes:.3g}"))
            text += f" = {passes} epochs"
            if self.size.samples is not None:
                text += f" of {self.size.samples:,} samples"
        if self.length == RunLength():
            text += " (auto)"
        text += f"; warm-up {self._warmup:,} steps"
        if self._ema is not None:
            text += f", EMA anneal {in_steps(self._ema.anneal, self.steps):,} steps"
        return text

    def doubts(self) -> list[str]:
        """What will probably not do what was meant, each with its remedy."""
        doubts = []
        if self._warmup >= self.steps:
            doubts.append(f"{self._long_warmup()}. Set it to a share of the run: --model.schedule.warmup 0.1")
        if self._ema is not None:
            doubts += self._doubts_about_teacher(self._ema)
            if self.size is not None and self._passes > MOST_PASSES:
                advised = RunLength().in_steps(self.size.passes_per_step)
                doubts.append(
                    f"{self.steps:,} steps are {self._passes:,.0f} passes over {self._samples}: this length is meant "
                    f"for more data. --length auto would be {advised:,} steps"
                )
        frozen = getattr(self.module, "freeze_encoder_steps", 0)
        if in_steps(frozen, self.steps) >= self.steps:
            doubts.append(
                f"model.freeze_encoder_steps is {frozen:,g} and the run has {self.steps:,} steps: only the head is "
                "trained. Set it to a share of the run, such as 0.1, or to 0"
            )
        return doubts

    def _doubts_about_teacher(self, ema: EMADecay) -> list[str]:
        untrained = ema.share_of_start(self.steps)
        if untrained <= MOST_UNTRAINED or getattr(self.module, "init_from", None) is not None:
            return []
        text = f"model.ema: the run has {self.steps:,} steps, and the teacher averages over {_window(ema.start)}"
        anneal = in_steps(ema.anneal, self.steps)
        if anneal > self.steps:
            text += f" (model.ema.anneal is {anneal:,} steps)"
        start, end = (max(0.5, 1 - share / self.steps) for share in (60, 4))
        return [
            f"{text} at first, {_window(ema.end)} after the anneal: {untrained:.0%} of the teacher would still be the "
            f"untrained network at the end. For so short a run: --model.ema.start {start:.4g} --model.ema.end {end:.4g}"
        ]

    def _long_warmup(self) -> str:
        reached = self.steps / self._warmup
        return (
            f"model.schedule.warmup is {self._warmup:,} steps, and the run has {self.steps:,}: the learning rate would "
            f"reach {reached:.2g} of its peak"
        )

    @property
    def _warmup(self) -> int:
        schedule = getattr(self.module, "schedule", None)
        return schedule.warmup_steps(self.steps) if isinstance(schedule, LRSchedule) else 0

    @property
    def _ema(self) -> EMADecay | None:
        ema = getattr(self.module, "ema", None)
        return ema if isinstance(ema, EMADecay) else None

    @property
    def _passes(self) -> float:
        assert self.size is not None
        return self.steps * self.size.passes_per_step

    @property
    def _samples(self) -> str:
        assert self.size is not None
        return "the data" if self.size.samples is None else f"{self.size.samples:,} samples"


def _window(decay: float) -> str:
    """Steps that an average with a decay spans."""
    return "all" if decay == 1 else f"{1 / (1 - decay):,.0f}"

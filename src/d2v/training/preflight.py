"""What a run is going to be, in a line, and what makes no sense about it, before its first step."""

import lightning as L

from d2v.data.batching import TrainingSize
from d2v.errors import UserError
from d2v.training.run_length import RunLength
from d2v.training.schedules import EMADecay, LRSchedule, in_steps

LEAST_PEAK = 0.1  # a learning rate that stays below this share of its peak teaches nothing
MOST_UNTRAINED = 0.2  # share of a teacher that may still be the untrained network at the end
MOST_PASSES = 2_000  # of a pretraining over its data
MOST_PASSES_A_STEP = 100


def preflight(module: L.LightningModule, steps: int, size: TrainingSize | None) -> list[str]:
    """Compare the schedules of a module with the length of its run.

    Args:
        module: Its ``schedule``, ``ema`` and ``freeze_encoder_steps`` are looked at, where it has them.
        steps: Optimizer steps of the run.
        size: Of the training data, if it is known.

    Returns:
        Lines to show: the plan, then what will probably not do what was meant, each with its remedy.

    Raises:
        UserError: Nothing can be learned: there is no step, the learning rate hardly rises, or a step has far more
            samples than there are.
    """
    if steps < 1 or (size is not None and size.steps_per_epoch < 1):
        raise UserError(
            "the run has no step: trainer.max_steps, trainer.max_epochs or trainer.limit_train_batches is 0, or the "
            "training data give no batch"
        )
    if size is not None and size.passes_per_step > MOST_PASSES_A_STEP:
        raise UserError(
            f"data.batch_size and data.global_batch_size: one step would read {_samples(size)} "
            f"{size.passes_per_step:,.0f} times; make them smaller, or give more data"
        )
    schedule, ema = getattr(module, "schedule", None), getattr(module, "ema", None)
    warmup = schedule.warmup_steps(steps) if isinstance(schedule, LRSchedule) else 0
    plan, doubts = f"plan: {steps:,} steps", []
    if size is not None:
        plan += f" = {_rounded(steps * size.passes_per_step)} epochs of {_samples(size)}"
    plan += f"; warm-up {warmup:,} steps"
    if warmup >= steps:
        text = (
            f"model.schedule.warmup is {warmup:,} steps, and the run has {steps:,}: the learning rate would reach "
            f"{steps / warmup:.2g} of its peak. Set it to a share of the run: --model.schedule.warmup 0.1"
        )
        if steps < LEAST_PEAK * warmup:
            raise UserError(text)
        doubts.append(text)
    if isinstance(ema, EMADecay):
        plan += f", EMA anneal {in_steps(ema.anneal, steps):,} steps"
        if getattr(module, "init_from", None) is None:
            doubts += _about_teacher(ema, steps)
        if size is not None and steps * size.passes_per_step > MOST_PASSES:
            doubts.append(
                f"{steps:,} steps are {steps * size.passes_per_step:,.0f} passes over {_samples(size)}: this length is "
                f"meant for more data. --length auto would be {RunLength().in_steps(size.passes_per_step):,} steps"
            )
    frozen = getattr(module, "freeze_encoder_steps", 0)
    if in_steps(frozen, steps) >= steps:
        doubts.append(
            f"model.freeze_encoder_steps is {frozen:,g} and the run has {steps:,} steps: only the head is trained. Set "
            "it to a share of the run, such as 0.1, or to 0"
        )
    return [plan, *[f"warning: {doubt}" for doubt in doubts]]


def _about_teacher(ema: EMADecay, steps: int) -> list[str]:
    untrained = ema.share_of_start(steps)
    if untrained <= MOST_UNTRAINED:
        return []
    windows = []
    for decay in (ema.start, ema.end):
        windows.append(f"{1 / (1 - decay):,.0f}" if decay < 1 else "all")
    # What the small recipes have: an average over a sixtieth of the run at first, over a quarter at the end.
    start, end = (max(0.5, 1 - share / steps) for share in (60, 4))
    return [
        f"model.ema: the run has {steps:,} steps, and the teacher averages over {windows[0]} at first, {windows[1]} "
        f"after the anneal of {in_steps(ema.anneal, steps):,}: {untrained:.0%} of the teacher would still be the "
        f"untrained network at the end. For so short a run: --model.ema.start {start:.4g} --model.ema.end {end:.4g}"
    ]


def _samples(size: TrainingSize) -> str:
    return "the data" if size.samples is None else f"{size.samples:,} samples"


def _rounded(number: float) -> str:
    """With three digits that count."""
    return f"{float(f'{number:.3g}'):,g}"

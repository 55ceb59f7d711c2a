"""Derive the gradient accumulation that reaches the batch size of a recipe."""

from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

from d2v.errors import UserError

# Seconds of audio may have decimals; a proposed size has no more than these.
_DECIMALS = 1_000
_TRIED = 10_000


class TrainingSize(NamedTuple):
    """How much there is to train on."""

    samples: int | None  # of data from elsewhere it is not known
    steps_per_epoch: int  # optimizer steps of one epoch of the trainer
    passes_per_step: float  # share of the samples that one optimizer step sees


def derive_accumulation(
    batch_size: float, global_batch_size: float | None, world_size: int, set_by_user: int = 1
) -> int:
    """Number of micro-batches that one device accumulates for one optimizer step.

    Args:
        batch_size: of one device and one micro-batch, in the modality's unit.
        global_batch_size: of one optimizer step on all devices; None leaves ``trainer.accumulate_grad_batches``.
        world_size: devices.
        set_by_user: ``trainer.accumulate_grad_batches`` as it was configured.

    Raises:
        UserError: if the global batch cannot be met exactly, or the trainer was told otherwise.
    """
    for key, value in (("data.batch_size", batch_size), ("data.global_batch_size", global_batch_size)):
        if value is not None and value < 1:
            raise UserError(f"{key} is {value}: it must be at least 1.")
    if global_batch_size is None:
        return set_by_user
    on_all_devices = _exact(batch_size) * world_size
    accumulation = _exact(global_batch_size) / on_all_devices
    if accumulation.denominator > 1:
        raise UserError(
            f"data.global_batch_size {global_batch_size} cannot be met: data.batch_size {batch_size} x {world_size} "
            f"devices = {float(on_all_devices):g} does not divide it. "
            + _what_works(_exact(batch_size), _exact(global_batch_size), world_size)
        )
    if set_by_user not in (1, int(accumulation)):
        raise UserError(
            f"trainer.accumulate_grad_batches is {set_by_user}, but data.global_batch_size {global_batch_size} with "
            f"data.batch_size {batch_size} x {world_size} devices needs {accumulation}. Leave it out: it is derived."
        )
    return int(accumulation)


def no_room(batch_size: float, max_seconds: float, global_batch_size: float | None) -> UserError:
    """The error for a batch that is shorter than a clip may be, with all that is wrong with it."""
    text = (
        f"data.batch_size {batch_size:g} (seconds of audio) has no room for a clip of data.max_seconds "
        f"{max_seconds:g}: raise it to {max_seconds:g} or more, or set data.max_seconds to {batch_size:g} too."
    )
    try:
        derive_accumulation(batch_size, global_batch_size, world_size=1)
    except UserError as error:
        text += f" Besides, {error}"
    return UserError(text)


def plain_number(value: float) -> str:
    """A number with separated thousands, and with decimals only if it has any."""
    return f"{value:,}".removesuffix(".0")


def _exact(value: float) -> Fraction:
    """The decimal number that the user wrote: exactly 0.1, not the float next to it."""
    return Fraction(str(value))


def _what_works(batch_size: Fraction, global_batch_size: Fraction, world_size: int) -> str:
    """Advice: the nearest possible sizes of the global batch and of the micro-batch."""
    on_all_devices = batch_size * world_size
    below = global_batch_size // on_all_devices * on_all_devices
    advice = f"Set data.global_batch_size to {_either(below, below + on_all_devices)}"
    share = global_batch_size / world_size
    # A share of whole samples is cut into whole samples; of seconds, into short decimals.
    unit = Fraction(1, _DECIMALS)
    if batch_size.denominator == global_batch_size.denominator == 1:
        unit = Fraction(1)
    cuts = int(share / batch_size)  # with as many or fewer the micro-batch is larger than batch_size
    smaller = _first_multiple(unit, share, range(cuts + 1, min(cuts + _TRIED, int(share)) + 1))
    larger = _first_multiple(unit, share, range(cuts, 0, -1))
    if smaller or larger:
        advice += f", or data.batch_size to {_either(smaller, larger)}"
    return advice + "."


def _first_multiple(unit: Fraction, share: Fraction, cuts: Iterable[int]) -> Fraction:
    """The first cut of the share that is a multiple of the unit; 0 if none is."""
    for number in cuts:
        if (share / number / unit).denominator == 1:
            return share / number
    return Fraction(0)


def _either(*sizes: Fraction) -> str:
    """The sizes above 0, with "or" between them."""
    return " or ".join(f"{float(size):.12g}" for size in sizes if size)

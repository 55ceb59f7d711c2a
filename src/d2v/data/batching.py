"""From the batch that a recipe states to the accumulation that reaches it."""

from d2v.errors import UserError


def derive_accumulation(batch_size: int, global_batch_size: int | None, world_size: int, set_by_user: int = 1) -> int:
    """Micro-batches that one device accumulates for one optimizer step.

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
    on_all_devices = batch_size * world_size
    if global_batch_size % on_all_devices:
        raise UserError(
            f"data.global_batch_size {global_batch_size} cannot be met: data.batch_size {batch_size} x {world_size} "
            f"devices = {on_all_devices} does not divide it. " + _what_works(batch_size, global_batch_size, world_size)
        )
    accumulation = global_batch_size // on_all_devices
    if set_by_user not in (1, accumulation):
        raise UserError(
            f"trainer.accumulate_grad_batches is {set_by_user}, but data.global_batch_size {global_batch_size} with "
            f"data.batch_size {batch_size} x {world_size} devices needs {accumulation}. Leave it out: it is derived."
        )
    return accumulation


def _what_works(batch_size: int, global_batch_size: int, world_size: int) -> str:
    on_all_devices = batch_size * world_size
    below = global_batch_size // on_all_devices * on_all_devices
    totals = [str(total) for total in (below, below + on_all_devices) if total]
    advice = f"Set data.global_batch_size to {' or '.join(totals)}"
    if global_batch_size % world_size == 0:
        share = global_batch_size // world_size
        divisors = [size for size in range(1, share + 1) if share % size == 0]
        nearest = [max((size for size in divisors if size < batch_size), default=None, key=int)]
        nearest.append(min((size for size in divisors if size > batch_size), default=None, key=int))
        advice += f", or data.batch_size to {' or '.join(str(size) for size in nearest if size is not None)}"
    return advice + "."

"""How many optimizer steps a run is going to have, which its schedules follow."""

import lightning as L

from d2v.data.data_module import PretrainingDataModule


class RunPlan(L.Callback):
    """Finds out before the first step how many there are going to be; every training has one.

    The run ends with ``trainer.max_steps`` or ``trainer.max_epochs``, whichever comes first.
    """

    def __init__(self) -> None:
        self.total_steps = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.total_steps = _steps_of(trainer)


def total_steps(trainer: L.Trainer) -> int:
    """Optimizer steps of the whole run, those before a resume included."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RunPlan):
            return callback.total_steps
    return _steps_of(trainer)


def _steps_of(trainer: L.Trainer) -> int:
    if trainer.max_epochs in (None, -1):
        return trainer.max_steps
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, PretrainingDataModule):
        return int(trainer.estimated_stepping_batches)
    # Lightning's estimate would make the loader, and a resume could not move it any more.
    steps = data.steps_in_epoch() * trainer.max_epochs
    return min(steps, trainer.max_steps) if trainer.max_steps > 0 else steps

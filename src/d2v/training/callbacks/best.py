"""The best checkpoint of a run, by a metric of validation or of a probe."""

import math
from pathlib import Path
from typing import Literal

import lightning as L

from d2v import metrics
from d2v.checkpoints.intact import BEST
from d2v.data.joint import parts_of
from d2v.errors import UserError
from d2v.metrics import of_encoder
from d2v.training.callbacks.probe import ProbeCallback, probe_callbacks
from d2v.training.step import TrainingModule

Mode = Literal["min", "max"]
_LESS_IS_BETTER = ("loss", "wer", "cer", "error")


class BestCheckpoint:
    """Saves ``best.ckpt`` whenever a metric is better than ever before.

    Args:
        metric: Its name; None: the first one that a fine-tuning validates by, if it does.
        mode: Which end is better; None: "min" of losses and error rates, "max" of everything else.
    """

    def __init__(self, metric: str | None, mode: Mode | None) -> None:
        self.metric, self.mode = metric, mode
        self.value: float | None = None
        self.step = 0

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Choose the metric, and check that what callbacks monitor will be there.

        Raises:
            UserError: It will not; the message lists what will.
        """
        names: list[str] = []
        for callback in probe_callbacks(trainer):
            names += callback.names
        validates = _validates(trainer)
        if isinstance(module, TrainingModule) and validates:
            names += module.validation_metrics
            if self.metric is None and module.keeps_best:
                self.metric = module.validation_metrics[0]
        elif validates:
            return  # a module from elsewhere tells its metrics when it first validates
        if self.metric is not None and self.metric not in names:
            raise UserError(f"checkpoint.monitor is {self.metric}: this run {_offered(names, trainer)}")
        parts = [module, *trainer.callbacks]  # type: ignore[attr-defined]
        foreign = any(type(part).__module__.partition(".")[0] not in ("d2v", "lightning") for part in parts)
        of_training = ["step", "epoch"]
        for name, value in vars(metrics).items():
            if name.isupper() and not value.startswith(("val/", "probe/")):
                of_training += [of_encoder(value, encoder) for encoder in ("", *getattr(module, "encoders", ()))]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            metric = getattr(callback, "monitor", None)
            if metric is None or metric in (*names, *of_training) or metric.startswith("throughput/"):
                continue  # throughput is named by its unit
            slips = [name for name in names if metric in (name.replace("/", "_"), name.partition("/")[2])]
            if slips or not foreign or metric.startswith(("val/", "probe/")):  # others may log more of training
                named = f"monitor of {type(callback).__name__} is {metric}"
                raise UserError(f"{named}: this run {_offered(names, trainer)}; and train/loss and others of training")

    def update(self, trainer: L.Trainer, folder: str, validated: bool) -> None:
        """Save, if validation or a probe has just given a better value than all before.

        Raises:
            UserError: There is no such metric.
        """
        if self.metric is None or trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        logged = trainer.callback_metrics
        if self.metric.startswith("probe/"):
            probed = any(callback.last_step == trainer.global_step for callback in probe_callbacks(trainer))
            if not probed or self.metric not in logged:
                return
        elif not validated:
            return
        if self.metric not in logged:
            raise UserError(f"checkpoint.monitor is {self.metric}: this run {_offered(list(logged), trainer)}")
        value = float(logged[self.metric])
        if math.isfinite(value) and (self.value is None or self._is_better(value, self.value)):
            self.value, self.step = value, trainer.global_step
            trainer.save_checkpoint(Path(folder) / BEST)

    def _is_better(self, value: float, than: float) -> bool:
        assert self.metric is not None
        if self.mode == "min" or (self.mode is None and self.metric.endswith(_LESS_IS_BETTER)):
            return value < than
        return value > than


def _validates(trainer: L.Trainer) -> bool:
    if not trainer.enable_validation:
        return False
    parts = parts_of(getattr(trainer, "datamodule", None))
    return not parts or any(part.eval_dataset("val") is not None for part in parts.values())


def _offered(names: list[str], trainer: L.Trainer) -> str:
    """What can be monitored, and how there could be more."""
    text = "has no metrics of validation or of probes"
    if names:
        text = f"has {', '.join(names)}"
    if not trainer.enable_validation:
        text += "; it does not validate (trainer.limit_val_batches is 0)"
    elif not _validates(trainer):
        text += "; it does not validate (data.val_fraction 0.1 holds out a tenth of the samples for that)"
    if not any(name.startswith("probe/") for name in names):
        text += f"; {ProbeCallback.__module__}.{ProbeCallback.__name__} in trainer.callbacks adds those of probes"
    return text

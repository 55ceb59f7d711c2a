"""Checkpoints of a run."""

import signal
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from d2v.checkpoints.intact import BEST, LAST, damage
from d2v.errors import Interrupted, UserError
from d2v.training.callbacks.best import BestCheckpoint, Mode
from d2v.training.callbacks.run_plan import total_steps
from d2v.training.checkpoint_io import SafeCheckpointIO
from d2v.training.schedules import in_steps, require_share_or_steps
from d2v.training.stop_signals import REQUEUE, STOP, requeue_job
from d2v.whole_files import remove_unfinished, replace_link

MOST_STEPS = 5000  # between two checkpoints, unless more are asked for


class RunCheckpoint(ModelCheckpoint):
    """Saves ``checkpoints/last.ckpt`` regularly, at the end and when a signal stops the run; keeps older ones if told,
    and the best one as ``best.ckpt``.

    SIGINT (Ctrl-C), SIGTERM and SIGUSR1 let the optimizer step that is under way finish, so that what is saved is
    whole; a probe is given up, and on one device validation and waiting for data too. A second Ctrl-C stops at once.
    Several devices look for signals together, after each step. Under SLURM, SIGUSR1 also has the job requeued.

    Args:
        every_n_train_steps: Between two checkpoints: 1 and more optimizer steps; below 1 a share of the run, but at
            most 5,000 steps.
        train_time_interval: Instead, the time between two checkpoints.
        keep: How many of the regular checkpoints stay, the last one included; -1: all. With two, one is left if the
            last is damaged.
        monitor: Metric of validation or of a probe by which ``best.ckpt`` is kept, such as probe/linear_top1; null: of
            a fine-tuning its own (val/top1, val/wer, ...), of a pretraining none.
        mode: min or max, whichever is better; null: min of losses and error rates, max of everything else.
        dirpath: Folder; the command line puts it into the run's folder.
    """

    def __init__(
        self,
        every_n_train_steps: float = 0.1,
        train_time_interval: timedelta | None = None,
        keep: int = 2,
        monitor: str | None = None,
        mode: Mode | None = None,
        dirpath: str | None = None,
    ) -> None:
        require_share_or_steps("checkpoint.every_n_train_steps", every_n_train_steps)
        if every_n_train_steps == 0:
            raise UserError("checkpoint.every_n_train_steps is 0: it must be at least 1, or a share of the run.")
        if keep < -1:
            raise UserError(f"checkpoint.keep is {keep}: it must be -1 (all), 0 (last.ckpt only) or more.")
        self.every = None if train_time_interval is not None else every_n_train_steps
        super().__init__(
            dirpath=dirpath,
            filename="step-{step}",
            auto_insert_metric_name=False,
            every_n_train_steps=None if self.every is None else MOST_STEPS,
            train_time_interval=train_time_interval,
            save_last="link",
            save_top_k=keep,
            monitor="step",
            mode="max",
            enable_version_counter=False,
        )
        self.best = BestCheckpoint(monitor, mode)
        self._loops: dict[str, Any] | None = None  # Lightning's counters at the end of the last optimizer step
        self._stopping = False
        self._validated = False  # in the middle of an optimizer step

    @property
    def state_key(self) -> str:
        return type(self).__qualname__  # Lightning's has the steps in it, which depend on the run's length

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        # Lightning's handlers make exit code 0 of a SIGTERM, and wait for other devices inside of a handler.
        trainer._signal_connector.register_signal_handlers = STOP.listen  # type: ignore[method-assign]
        STOP.listen()
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # else the user chose another
            trainer.strategy.checkpoint_io = SafeCheckpointIO()
        if stage == "fit" and trainer.is_global_zero:
            remove_unfinished(Path(str(self.dirpath)))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step  # what a run starts with need not be saved
        self.best.start(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        STOP.at_once = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop._should_accumulate():
            return  # half an optimizer step cannot be saved
        skipped = getattr(pl_module, "skipped_in_a_row", 0)
        if getattr(pl_module, "failure", None) is not None:  # the module is going to stop the run
            self._save_checkpoint(trainer, f"{self.dirpath}/{LAST}")
        elif skipped <= 1 and self._is_due(trainer):  # older checkpoints are better than numbers that are not finite
            self._save_now(trainer)
        self.best.update(trainer, str(self.dirpath), self._validated)
        self._validated = False
        self._loops = trainer._checkpoint_connector._get_loops_state_dict()
        if trainer.strategy.reduce_boolean_decision(STOP.number is not None, all=False):
            raise Interrupted("stopped", STOP.number or signal.SIGTERM)
        STOP.at_once = trainer.world_size == 1  # several devices can only stop together

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._stopping:  # in validation or while waiting for data: what is saved is the end of the step before
            checkpoint["loops"] = self._loops

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._validated = trainer.fit_loop._should_accumulate()  # in the middle of a step: then it is saved at its end
        if not self._validated:
            self.best.update(trainer, str(self.dirpath), validated=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning's would save ``last.ckpt`` once more where no other checkpoints are kept."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.best.update(trainer, str(self.dirpath), validated=False)
        self._save_now(trainer)  # Lightning's own would also save where nothing was trained

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        STOP.restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        if isinstance(exception, Interrupted) and self._loops is not None:
            self._stopping = True
            self._save_now(trainer)
            text = f"stopped at step {trainer.global_step}; continue with the same command and --resume {self.dirpath}"
            exception.args = (f"{text}/{LAST}",)
            if exception.signal_number == REQUEUE and trainer.is_global_zero:
                requeue_job()
        elif isinstance(exception, Exception) and STOP.at_once and self._loops is not None:
            self._stopping = True  # data that are gone, say: the end of the step before is whole
            with suppress(Exception):  # the first error is the one to tell
                self._save_now(trainer)
                rank_zero_info(f"saved step {trainer.global_step}: {self.dirpath}/{LAST}")
        STOP.restore()

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        if Path(filepath).name != LAST:  # before Lightning removes an older one that last.ckpt may still point to
            self._link_checkpoint(trainer, filepath, str(Path(filepath).with_name(LAST)))

    @staticmethod
    def _link_checkpoint(trainer: L.Trainer, filepath: str, linkpath: str) -> None:
        """As Lightning's, but at every moment there is one."""
        if trainer.is_global_zero:
            replace_link(Path(linkpath), Path(filepath))
        trainer.strategy.barrier()

    def described(self) -> str:
        """The checkpoints there are, in words."""
        text = "checkpoints/last.ckpt"
        if self.best.value is not None:
            text += f", checkpoints/{BEST} ({self.best.metric} {self.best.value:.4g} at step {self.best.step:,})"
        return text

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best": (self.best.value, self.best.step)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        best = Path(str(self.dirpath)) / BEST
        wrong = damage(best)
        if wrong:
            self.best.value = None  # the next one is the best that there is
            if best.exists():
                rank_zero_info(f"warning: {best} is damaged ({wrong}): the next one takes its place")
            return
        # It may be newer than the checkpoint that is read.
        stored = torch.load(best, map_location="cpu", weights_only=True, mmap=True)
        for state in stored["callbacks"].values():
            self.best.value, self.best.step = state.get("best", (self.best.value, self.best.step))

    def _is_due(self, trainer: L.Trainer) -> bool:
        """Whether the optimizer step that has just ended is to be saved. Lightning's rule waits for a validation that
        may not come, and then saves in the middle of a step."""
        if self.every is not None:
            most = MOST_STEPS if self.every < 1 else self.every
            return trainer.global_step % int(max(1, min(in_steps(self.every, total_steps(trainer)), most))) == 0
        assert self._train_time_interval is not None
        now = time.monotonic()
        last = self._last_time_checked
        due = last is None or now - last >= self._train_time_interval.total_seconds()
        due = trainer.strategy.broadcast(due)  # the devices' clocks differ
        if due:
            self._last_time_checked = now
        return due

    def _save_now(self, trainer: L.Trainer) -> None:
        if self._last_global_step_saved != trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

"""Checkpoints of a run."""

import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn

from d2v.errors import Interrupted, UserError
from d2v.training.callbacks.best import BEST, BestCheckpoint, Mode
from d2v.training.callbacks.run_plan import total_steps
from d2v.training.checkpoint_io import SafeCheckpointIO, remove_unfinished, replace_link
from d2v.training.schedules import in_steps, require_share_or_steps

MOST_STEPS = 5000  # between two checkpoints, unless more are asked for
LAST = "last.ckpt"
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunCheckpoint(ModelCheckpoint):
    """Saves ``checkpoints/last.ckpt`` regularly, at the end and when a signal stops the run; keeps older ones if told,
    and the best one as ``best.ckpt``.

    SIGINT (Ctrl-C) and SIGTERM let the optimizer step that is under way finish, so that what is saved is whole; a
    second one stops at once. Several devices look for signals together, every ``trainer.log_every_n_steps``.

    Args:
        every_n_train_steps: Between two checkpoints: 1 and more optimizer steps; below 1 a share of the run, but at
            most 5,000 steps.
        train_time_interval: Instead, the time between two checkpoints.
        keep: How many of the regular checkpoints stay beside ``last.ckpt``; -1: all.
        monitor: Metric of validation or of a probe by which ``best.ckpt`` is kept, such as probe/linear_top1; null: of
            a fine-tuning its own (val/top1, val/wer, ...), of a pretraining none.
        mode: min or max, whichever is better; null: min of losses and error rates, max of everything else.
        dirpath: Folder; the command line puts it into the run's folder.
    """

    def __init__(
        self,
        every_n_train_steps: float = 0.1,
        train_time_interval: timedelta | None = None,
        keep: int = 1,
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
        self._signal: int | None = None
        self._previous_handlers: dict[int, Any] = {}

    @property
    def state_key(self) -> str:
        return type(self).__qualname__  # Lightning's has the steps in it, which depend on the run's length

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # else the user chose another
            trainer.strategy.checkpoint_io = SafeCheckpointIO()
        if stage == "fit" and trainer.is_global_zero:
            remove_unfinished(Path(str(self.dirpath)))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step  # what a run starts with need not be saved
        self.best.start(trainer, pl_module)
        self._signal = None
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in _STOP_SIGNALS:
                self._previous_handlers[number] = signal.signal(number, self._ask_to_stop)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.every is not None:
            most = MOST_STEPS if self.every < 1 else self.every
            self._every_n_train_steps = int(max(1, min(in_steps(self.every, total_steps(trainer)), most)))
        skipped = getattr(pl_module, "skipped_in_a_row", 0)
        if getattr(pl_module, "failure", None) is not None:  # the module is going to stop the run
            self._save_checkpoint(trainer, f"{self.dirpath}/{LAST}")
        elif skipped <= 1:  # while numbers are not finite, older checkpoints may be the better ones
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # half an optimizer step cannot be saved
        self.best.update(trainer, str(self.dirpath), validated=False)
        if trainer.world_size > 1 and trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return  # asking the other devices takes time
        if trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False):
            self._save_now(trainer)
            number = self._signal or signal.SIGTERM
            raise Interrupted(
                f"stopped at step {trainer.global_step}; continue with the same command and --resume "
                f"{self.dirpath}/last.ckpt",
                number,
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == TrainerFn.FITTING:
            self.best.update(trainer, str(self.dirpath), validated=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.best.update(trainer, str(self.dirpath), validated=False)
        self._save_now(trainer)  # Lightning's own would also save where nothing was trained

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._restore_handlers()

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
        if best.is_file():  # which may be newer than the checkpoint that is read
            stored = torch.load(best, map_location="cpu", weights_only=True, mmap=True)
            for state in stored["callbacks"].values():
                self.best.value, self.best.step = state.get("best", (self.best.value, self.best.step))

    def _save_now(self, trainer: L.Trainer) -> None:
        if self._last_global_step_saved != trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._restore_handlers()  # a second signal acts at once
        self._signal = number
        print("\nd2v: stopping after this step; a second Ctrl-C or SIGTERM stops at once", file=sys.stderr, flush=True)

    def _restore_handlers(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers = {}

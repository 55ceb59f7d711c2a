"""Says what is wrong with a run, from what is logged of it."""

import json
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from d2v.training.callbacks.log import is_logged
from d2v.training.callbacks.run_plan import known_steps
from d2v.training.finite_updates import FiniteUpdates
from d2v.verdicts import FILE, FIRST_STEPS, History, Judge, Settings, Verdict
from d2v.whole_files import write_text

OnFault = Literal["warn", "stop"]

LOG_EVERY = 10  # steps at least, of the first ones
_LATEST = 20  # rows that are kept beside those of the first steps


class Monitor(L.Callback):
    """Reads what was logged about each step that is logged, and says once of each fault what, why and what cures it:
    in the terminal, to Weights & Biases as an alert, and in ``verdicts.jsonl``. Only the first device reads.

    Args:
        judge: Finds the faults.
        run_dir: Folder of the run.
        on_fault: "warn" says it; "stop" also ends the run, when its checkpoint has been saved.
    """

    def __init__(self, judge: Judge, run_dir: Path, on_fault: OnFault = "warn") -> None:
        self.judge = judge
        self.run_dir = run_dir
        self.on_fault = on_fault
        self.history = History()
        self._said: list[str] = []
        self._first_step = 0
        self._read = -1
        self._log_every = 0
        self._stop_for: Verdict | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._read = trainer.global_step
        if not self.history.rows:
            self._first_step = trainer.global_step
        self._log_every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step < FIRST_STEPS:
            trainer.log_every_n_steps = min(self._log_every, LOG_EVERY)  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            _drop_after(self.run_dir / FILE, trainer.global_step)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """All of the step before has been logged."""
        step = trainer.global_step
        if step == self._read:
            return
        self._read = step
        if is_logged(trainer, step):
            self._look(trainer, pl_module)
        if step == FIRST_STEPS:
            steps = known_steps(trainer) or self._log_every
            trainer.log_every_n_steps = max(1, min(self._log_every, steps))  # type: ignore[attr-defined]

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step != self._read and is_logged(trainer, trainer.global_step):
            self._look(trainer, pl_module)

    def report(self, trainer: L.Trainer, verdict: Verdict) -> None:
        """Say a verdict, unless it was said before. Others that watch a run may call it, on the first device."""
        if verdict.fault in self._said:
            return
        self._said.append(verdict.fault)
        rank_zero_info(f"monitor: {verdict}")
        with (self.run_dir / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(verdict.as_dict()) + "\n")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.alert(title=f"{verdict.what} ({verdict.fault})", text=f"{verdict}")
        self._stop_for = self._stop_for or verdict

    def _look(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            row = {}
            for name, value in trainer.callback_metrics.items():
                row[name] = float(value) if isinstance(value, Tensor) else value
            self.history.settings = self._settings(trainer, pl_module)
            self.history.rows.append((trainer.global_step, row))
            self._forget()
            for verdict in self.judge(self.history):
                self.report(trainer, verdict)
        if self.on_fault == "stop":
            stop_for = trainer.strategy.broadcast(self._stop_for)
            if stop_for is not None and isinstance(pl_module, FiniteUpdates):
                failure = RuntimeError(
                    f"{stop_for}. The run stops, because on_fault is stop; last.ckpt has its weights"
                )
                failure.add_note(f"to go on all the same: d2v fit --resume {self.run_dir} --on_fault warn")
                pl_module.failure = failure

    def _forget(self) -> None:
        rows = self.history.rows
        first = [row for row in rows if row[0] <= FIRST_STEPS]
        self.history.rows = first + rows[len(first) :][-_LATEST:]

    def _settings(self, trainer: L.Trainer, pl_module: L.LightningModule) -> Settings:
        optimizer = trainer.optimizers[0]
        groups = optimizer.param_groups
        return Settings(
            first_step=self._first_step,
            total_steps=known_steps(trainer),
            peak_lr=groups[0]["initial_lr"],
            optimizer=type(optimizer).__name__,
            betas=tuple(groups[0].get("betas", ())),
            weight_decay=max(group.get("weight_decay", 0.0) for group in groups),
            clip=trainer.gradient_clip_val,
            precision=str(trainer.precision),
            freezes=getattr(pl_module, "freezes", False),
            starts_from=getattr(pl_module, "init_from", None),
        )

    def state_dict(self) -> dict[str, Any]:
        rows = []
        for step, row in self.history.rows:  # without times, so that a run that goes on is the same bit for bit
            kept = {name: value for name, value in row.items() if not name.startswith("throughput/")}
            rows.append((step, kept))
        return {"rows": rows, "said": self._said, "first_step": self._first_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = History(list(state_dict["rows"]))
        self._said, self._first_step = list(state_dict["said"]), state_dict["first_step"]


def report(trainer: L.Trainer, verdict: Verdict) -> None:
    """Let the monitor of a run say something; where there is none, it is said in the terminal."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Monitor):
            callback.report(trainer, verdict)
            return
    rank_zero_info(f"warning: {verdict}")


def _drop_after(path: Path, step: int) -> None:
    """Drop what was said about later steps, which are going to be done again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if json.loads(line)["step"] <= step:
            kept.append(f"{line}\n")
    write_text(path, "".join(kept))

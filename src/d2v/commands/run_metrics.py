"""``metrics.csv`` in a run's folder."""

import csv
import os
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

METRICS = "metrics.csv"


class RunMetrics(CSVLogger):
    """Writes ``metrics.csv`` row by row, and goes on in the one that is there."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(str(run_dir), name="", version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _Continued(self.log_dir)
        return self._experiment


class _Continued(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Lightning would delete what is there."""
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self.metrics_keys = next(csv.reader(file), [])


def drop_rows_after(run_dir: Path, step: int) -> None:
    """Drop what was logged about later steps than ``step``, counted from 1, which are going to be done again."""
    path = run_dir / METRICS
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        kept = [row for row in rows if _is_of_steps_up_to(step, row)]
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows.fieldnames or ["step"])
        writer.writeheader()
        writer.writerows(kept)
    os.replace(unfinished, path)


def _is_of_steps_up_to(step: int, row: dict[str, str]) -> bool:
    """Training and validation count steps from 0, as Lightning does; probes give the number of steps done."""
    if not (row["step"] or "").isdigit():
        return False  # the process was killed while it wrote
    if any(value for name, value in row.items() if name.startswith("probe/")):
        step += 1
    return int(row["step"]) < step

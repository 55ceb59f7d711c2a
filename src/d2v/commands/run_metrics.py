"""``metrics.csv`` in a run's folder."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from d2v.whole_files import whole_text_file

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

    def save(self) -> None:
        try:
            super().save()
        except OSError as error:
            how = f"Checkpoints stay: make room, and continue with --resume {self.log_dir}"
            raise OSError(f"{self.metrics_file_path}: cannot be written ({error.strerror or error}). {how}") from error

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Lightning would lose all rows if it was killed meanwhile."""
        path = Path(self.metrics_file_path)
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        _write(path, fieldnames, rows)


def drop_rows_after(run_dir: Path, step: int) -> None:
    """Drop what was logged about later steps than ``step``, counted from 1, which are going to be done again."""
    path = run_dir / METRICS
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        kept = [row for row in rows if _is_of_steps_up_to(step, row)]
    _write(path, rows.fieldnames or ["step"], kept)


def _write(path: Path, names: Sequence[str], rows: Iterable[dict[str, str]]) -> None:
    with whole_text_file(path) as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _is_of_steps_up_to(step: int, row: dict[str, str]) -> bool:
    """Training and validation count steps from 0, as Lightning does; probes give the number of steps done."""
    if not (row["step"] or "").isdigit():
        return False  # the process was killed while it wrote
    if any(value for name, value in row.items() if name.startswith("probe/")):
        step += 1
    return int(row["step"]) < step

"""What fine-tuning on GLUE has found: kept between calls, compared, and shown as a table."""

import csv
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from d2v.data.file_index import fingerprint
from d2v.errors import UserError
from d2v.modalities.text.labelled.glue import NOT_AVERAGED, TASKS


@dataclass(frozen=True)
class GlueRun:
    """One finished fine-tuning.

    Args:
        task: Its name.
        lr: Peak of the learning rate.
        seed: Of everything random.
        folder: Below ``runs``.
        scores: Metrics of each development set, from 0 to 1; NaN of a run that has diverged.
    """

    task: str
    lr: float
    seed: int
    folder: str
    scores: dict[str, dict[str, float]]

    @property
    def metrics(self) -> dict[str, float]:
        """Mean over the development sets: MNLI has two."""
        found: dict[str, float] = {}
        for name in TASKS[self.task].metrics:
            found[name] = mean(scores[name] for scores in self.scores.values())
        return found

    @property
    def score(self) -> float:
        """Mean of the metrics, as GLUE has it."""
        return mean(self.metrics.values())

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "GlueRun":
        """From an entry of ``results.json``, where null stands for NaN."""
        for found in content["scores"].values():
            for name, value in found.items():
                if value is None:
                    found[name] = math.nan
        return cls(content["task"], content["lr"], content["seed"], content["folder"], content["scores"])


@dataclass
class GlueResults:
    """All finished runs of one encoder, in ``results.json``."""

    output: Path
    checkpoint: Path
    root: Path
    settings: list[str]
    runs: list[GlueRun] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    """Those that the last call was about."""
    submitted: dict[str, str] = field(default_factory=dict)
    """Folder of the run that each file of the submission was made from."""

    @classmethod
    def open(cls, output: Path, checkpoint: Path, root: Path, settings: list[str]) -> "GlueResults":
        """Those of an earlier call, or empty ones.

        Raises:
            UserError: They are of another encoder, of other data or settings, or cannot be read.
        """
        results = cls(output.expanduser().resolve(), checkpoint, root, settings)
        if not results.file.exists():
            return results
        try:
            content = json.loads(results.file.read_text(encoding="utf-8"))
            runs = [GlueRun.from_json(run) for run in content["runs"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{results.file}: damaged ({error}); remove it, or give another --output") from error
        if not runs and not any((results.output / "runs").glob("*")):
            return results  # a call that could start nothing, perhaps because of these very settings
        for key, now in results._identity().items():
            if content.get(key) != now:
                raise UserError(
                    f"--output {output}: {results.file.name} there is of another {key} ({content.get(key)}, and now "
                    f"{now}); give another folder"
                )
        results.runs, results.submitted = runs, content.get("submitted", {})
        return results

    def best_of(self, task: str) -> GlueRun:
        """The best run of the best learning rate."""
        return best_of(self.runs, task)

    def table(self) -> str:
        """A line a task with its best learning rate, and the average; all in percent."""
        return table(self.runs, self.tasks)

    @property
    def file(self) -> Path:
        return self.output / "results.json"

    @property
    def submission(self) -> Path:
        return self.output / "submission"

    def save(self) -> None:
        """Replace the file as a whole."""
        done = {run.task for run in self.runs}
        tasks = {task: self._of_task(task) for task in TASKS if task in done}
        content = {
            **self._identity(),
            "tasks": tasks,
            "average": average(self.runs, list(tasks)),
            "runs": [{**asdict(run), "score": run.score} for run in self.runs],
            "submitted": self.submitted,
        }
        self.output.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(part, self.file)

    def _of_task(self, task: str) -> dict[str, Any]:
        """Means over the seeds at the best learning rate."""
        lr = best_lr(self.runs, task)
        chosen = runs_at(self.runs, task, lr)
        metrics: dict[str, float] = {}
        for name in TASKS[task].metrics:
            metrics[name] = mean(run.metrics[name] for run in chosen)
        seeds = sorted(run.seed for run in chosen)
        return {"lr": lr, "score": mean_score(chosen), "metrics": metrics, "seeds": seeds}

    def _identity(self) -> dict[str, Any]:
        files = [self.checkpoint]
        if self.checkpoint.is_dir():
            files = [path for path in sorted(self.checkpoint.rglob("*")) if path.suffix in (".ckpt", ".safetensors")]
        return {
            "checkpoint": str(self.checkpoint),
            "checkpoint_fingerprint": fingerprint(files),
            "root": str(self.root),
            "settings": self.settings,
        }


def runs_at(runs: Sequence[GlueRun], task: str, lr: float) -> list[GlueRun]:
    """The runs of a task with a learning rate, one a seed."""
    return [run for run in runs if (run.task, run.lr) == (task, lr)]


def best_lr(runs: Sequence[GlueRun], task: str) -> float:
    """The learning rate with the best mean over its seeds."""
    rates = sorted({run.lr for run in runs if run.task == task})
    return max(rates, key=lambda lr: _rank(mean_score(runs_at(runs, task, lr))))


def best_of(runs: Sequence[GlueRun], task: str) -> GlueRun:
    """The best run of the best learning rate."""
    return max(runs_at(runs, task, best_lr(runs, task)), key=lambda run: _rank(run.score))


def mean_score(runs: Sequence[GlueRun]) -> float:
    """Over runs of one task."""
    return mean(run.score for run in runs)


def average(runs: Sequence[GlueRun], tasks: Sequence[str]) -> float | None:
    """Of the scores of the tasks that count; None: there are none."""
    scores: list[float] = []
    for task in tasks:
        if task not in NOT_AVERAGED:
            scores.append(mean_score(runs_at(runs, task, best_lr(runs, task))))
    return mean(scores) if scores else None


def table(runs: Sequence[GlueRun], tasks: Sequence[str]) -> str:
    """A line a task with its best learning rate, and the average; all in percent."""
    rows = [("task", "metric", "dev", "score", "best lr", "seeds")]
    for task in tasks:
        spec, lr = TASKS[task], best_lr(runs, task)
        chosen = runs_at(runs, task, lr)
        values: dict[str, float] = {}
        for metric in spec.metrics:
            values[metric] = mean(run.metrics[metric] for run in chosen)
        if len(spec.dev_splits) > 1:  # MNLI: both of them, by one metric
            (metric,) = spec.metrics
            values = {}
            for split in spec.dev_splits:
                values[f"{metric} {split.partition('_')[2]}"] = mean(run.scores[split][metric] for run in chosen)
        score = f"{100 * mean_score(chosen):.2f}"
        if len(chosen) > 1 and not math.isnan(mean_score(chosen)):
            score += f" ± {100 * stdev(run.score for run in chosen):.2f}"
        shown = " / ".join(f"{100 * value:.2f}" for value in values.values())
        rows.append((spec.folder, " / ".join(values), shown, score, f"{lr:g}", str(len(chosen))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for row in rows:
        lines.append("  ".join(map(str.ljust, row, widths)).rstrip())
    value = average(runs, tasks)
    if value is not None:
        counted = len(set(tasks).difference(NOT_AVERAGED))
        of_all = ""
        if counted < len(TASKS) - len(NOT_AVERAGED):
            of_all = f"; GLUE's is over {len(TASKS) - len(NOT_AVERAGED)}, this is none to compare"
        lines.append(f"average over {counted} tasks: {100 * value:.2f} (WNLI never counts{of_all})")
    return "\n".join(lines)


def _rank(score: float) -> float:
    """For comparisons, in which NaN would win or lose by its place."""
    return -math.inf if math.isnan(score) else score


def _without_nan(content: Any) -> Any:
    """JSON has no NaN: null in its place."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return list(map(_without_nan, content))
    if isinstance(content, float) and math.isnan(content):
        return None
    return content


def last_metrics(file: Path) -> dict[str, float]:
    """The last value of each metric in a ``metrics.csv``."""
    with file.open(newline="") as lines:
        return {name: float(value) for row in csv.DictReader(lines) for name, value in row.items() if value}


def predictions(file: Path) -> list[str]:
    """What `d2v predict` has written, row by row."""
    with file.open(encoding="utf-8", newline="") as lines:
        header = next(lines).rstrip("\n").split("\t")
        return [line.rstrip("\n").split("\t")[header.index("prediction")] for line in lines]

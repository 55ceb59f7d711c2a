"""What `d2v glue` has found: kept between its calls, compared, and shown as a table."""

import csv
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from d2v.data.file_index import fingerprint
from d2v.errors import UserError
from d2v.modalities.text.labelled.glue import NOT_AVERAGED, TASKS


@dataclass(frozen=True)
class Run:
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
        return {name: mean(scores[name] for scores in self.scores.values()) for name in TASKS[self.task].metrics}

    @property
    def score(self) -> float:
        """Mean of the metrics, as GLUE has it."""
        return mean(self.metrics.values())

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Run":
        """From an entry of ``results.json``, where null stands for NaN."""
        run = cls(**{name: content[name] for name in cls.__dataclass_fields__})
        scores = {
            split: {name: math.nan if value is None else value for name, value in found.items()}
            for split, found in run.scores.items()
        }
        return replace(run, scores=scores)


@dataclass
class Results:
    """All finished runs of one encoder, in ``results.json``."""

    output: Path
    checkpoint: Path
    root: Path
    settings: list[str]
    runs: list[Run] = field(default_factory=list)
    submitted: dict[str, str] = field(default_factory=dict)
    """Folder of the run that each file of the submission was made from."""

    @classmethod
    def open(cls, output: Path, checkpoint: Path, root: Path, settings: list[str]) -> "Results":
        """Those of an earlier call, or empty ones.

        Raises:
            UserError: They are of another encoder, of other data or settings, or cannot be read.
        """
        results = cls(output.expanduser().resolve(), checkpoint, root, settings)
        if not results.file.exists():
            return results
        try:
            content = json.loads(results.file.read_text(encoding="utf-8"))
            runs = [Run.from_json(run) for run in content["runs"]]
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

    @property
    def file(self) -> Path:
        return self.output / "results.json"

    @property
    def submission(self) -> Path:
        return self.output / "submission"

    def add(self, run: Run) -> None:
        """Keep a run, on disk too."""
        self.runs.append(run)
        self.save()

    def save(self) -> None:
        """Replace the file as a whole."""
        tasks = [task for task in TASKS if any(run.task == task for run in self.runs)]
        best = {task: best_lr(self.runs, task) for task in tasks}
        content = {
            **self._identity(),
            "tasks": {task: {"lr": lr, **summary(self.runs, task, lr)} for task, lr in best.items()},
            "average": average(self.runs, tasks),
            "runs": [{**asdict(run), "score": run.score} for run in self.runs],
            "submitted": self.submitted,
        }
        self.output.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(part, self.file)

    def _identity(self) -> dict[str, Any]:
        files = [self.checkpoint]
        if self.checkpoint.is_dir():
            files = sorted(p for p in self.checkpoint.rglob("*") if p.suffix in (".ckpt", ".safetensors"))
        return {
            "checkpoint": str(self.checkpoint),
            "checkpoint_fingerprint": fingerprint(files),
            "root": str(self.root),
            "settings": self.settings,
        }


def best_lr(runs: Sequence[Run], task: str) -> float:
    """The learning rate with the best mean over its seeds."""
    rates = sorted({run.lr for run in runs if run.task == task})
    return max(rates, key=lambda lr: _rank(mean(run.score for run in runs if (run.task, run.lr) == (task, lr))))


def best_of(runs: Sequence[Run], task: str) -> Run:
    """The best run of the best learning rate."""
    lr = best_lr(runs, task)
    return max((run for run in runs if (run.task, run.lr) == (task, lr)), key=lambda run: _rank(run.score))


def _rank(score: float) -> float:
    """For comparisons, in which NaN would win or lose by its place."""
    return -math.inf if math.isnan(score) else score


def _without_nan(content: Any) -> Any:
    """JSON has no NaN: null in its place."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def summary(runs: Sequence[Run], task: str, lr: float) -> dict[str, Any]:
    """Means over the seeds."""
    chosen = [run for run in runs if (run.task, run.lr) == (task, lr)]
    return {
        "score": mean(run.score for run in chosen),
        "metrics": {name: mean(run.metrics[name] for run in chosen) for name in TASKS[task].metrics},
        "seeds": sorted(run.seed for run in chosen),
    }


def average(runs: Sequence[Run], tasks: Sequence[str]) -> float | None:
    """Of the scores of the tasks that count; None: there are none."""
    scores = [summary(runs, task, best_lr(runs, task))["score"] for task in tasks if task not in NOT_AVERAGED]
    return mean(scores) if scores else None


def table(runs: Sequence[Run], tasks: Sequence[str]) -> str:
    """A line a task with its best learning rate, and the average; all in percent."""
    lines = [["task", "metric", "dev", "score", "best lr", "seeds"]]
    for task in tasks:
        lr = best_lr(runs, task)
        found = summary(runs, task, lr)
        scores = [run.score for run in runs if (run.task, run.lr) == (task, lr)]
        spread = f" ± {100 * stdev(scores):.2f}" if len(scores) > 1 and not math.isnan(sum(scores)) else ""
        splits = [run for run in runs if (run.task, run.lr) == (task, lr)]
        values = [f"{100 * value:.2f}" for value in found["metrics"].values()]
        names = list(found["metrics"])
        if len(TASKS[task].dev_splits) > 1:
            names = [f"{names[0]} {split.partition('_')[2]}" for split in TASKS[task].dev_splits]
            metric = TASKS[task].metrics[0]
            values = [
                f"{100 * mean(run.scores[split][metric] for run in splits):.2f}" for split in TASKS[task].dev_splits
            ]
        score = f"{100 * found['score']:.2f}{spread}"
        lines.append(
            [TASKS[task].folder, " / ".join(names), " / ".join(values), score, f"{lr:g}", str(len(found["seeds"]))]
        )
    counted = [task for task in tasks if task not in NOT_AVERAGED]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    value = average(runs, tasks)
    if value is not None:
        all_counted = len(TASKS) - len(NOT_AVERAGED)
        of_all = "" if len(counted) == all_counted else f"; GLUE's is over {all_counted}, this is none to compare"
        shown.append(f"average over {len(counted)} tasks: {100 * value:.2f} (WNLI never counts{of_all})")
    return "\n".join(shown)


def last_metrics(file: Path) -> dict[str, float]:
    """The last value of each metric in a ``metrics.csv``."""
    with file.open(newline="") as lines:
        return {name: float(value) for row in csv.DictReader(lines) for name, value in row.items() if value}


def predictions(file: Path) -> list[str]:
    """What `d2v predict` has written, row by row."""
    with file.open(encoding="utf-8", newline="") as lines:
        header = next(lines).rstrip("\n").split("\t")
        return [line.rstrip("\n").split("\t")[header.index("prediction")] for line in lines]

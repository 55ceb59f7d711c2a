"""Results of fine-tuning on GLUE: kept between calls, compared, and shown as a table."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from d2v.data.file_index import fingerprint
from d2v.errors import UserError
from d2v.modalities.text.labelled.glue import NOT_AVERAGED, TASKS
from d2v.whole_files import write_text


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
        """Each metric's mean over the development sets: MNLI has two."""
        return _means(list(self.scores.values()))

    @property
    def score(self) -> float:
        """Mean of the metrics, as GLUE defines it."""
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
    """The tasks of the last call."""
    submitted: dict[str, str] = field(default_factory=dict)
    """Which run's folder each file of the submission was made from."""

    @classmethod
    def open(cls, output: Path, checkpoint: Path, root: Path, settings: list[str]) -> "GlueResults":
        """The results of an earlier call, or empty ones.

        Raises:
            UserError: They belong to another encoder, other data or other settings, or cannot be read.
        """
        results = cls(output.expanduser().resolve(), checkpoint, root, settings)
        if not results.file.exists():
            return results
        try:
            content = json.loads(results.file.read_text(encoding="utf-8"))
            runs = list(map(GlueRun.from_json, content["runs"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{results.file}: damaged ({error}); remove it, or give another --output") from error
        if not runs and not any((results.output / "runs").glob("*")):
            return results  # no run was started yet, perhaps because these settings were wrong
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

    def save(self) -> None:
        """Replace the file as a whole."""
        tasks: dict[str, Any] = {}
        for task in TASKS:
            chosen = best_runs(self.runs, task)
            if chosen:
                seeds = sorted(run.seed for run in chosen)
                tasks[task] = {"lr": chosen[0].lr, "score": mean_score(chosen), "metrics": mean_metrics(chosen)}
                tasks[task]["seeds"] = seeds
        runs: list[dict[str, Any]] = []
        for run in self.runs:
            runs.append({**asdict(run), "score": run.score})
        content = {**self._identity(), "tasks": tasks, "average": average(self.runs, list(tasks)), "runs": runs}
        content["submitted"] = self.submitted
        self.output.mkdir(parents=True, exist_ok=True)
        write_text(self.file, json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n")

    def _identity(self) -> dict[str, Any]:
        files = [self.checkpoint]
        if self.checkpoint.is_dir():
            files = sorted((*self.checkpoint.rglob("*.ckpt"), *self.checkpoint.rglob("*.safetensors")))
        return {
            "checkpoint": str(self.checkpoint),
            "checkpoint_fingerprint": fingerprint(files),
            "root": str(self.root),
            "settings": self.settings,
        }


def best_runs(runs: Sequence[GlueRun], task: str) -> list[GlueRun]:
    """The runs of a task, one for each seed, with the learning rate that has the best mean score; [] without runs."""
    by_rate: dict[float, list[GlueRun]] = {}
    for run in runs:
        if run.task == task:
            by_rate.setdefault(run.lr, []).append(run)
    best: list[GlueRun] = []
    for _, chosen in sorted(by_rate.items()):
        if not best or _rank(mean_score(chosen)) > _rank(mean_score(best)):
            best = chosen
    return best


def best_of(runs: Sequence[GlueRun], task: str) -> GlueRun:
    """The best run with the best learning rate."""
    return max(best_runs(runs, task), key=lambda run: _rank(run.score))


def mean_score(runs: Sequence[GlueRun]) -> float:
    """Mean of the scores of one task's runs."""
    return mean(run.score for run in runs)


def mean_metrics(runs: Sequence[GlueRun]) -> dict[str, float]:
    """Means of the metrics of one task's runs."""
    return _means([run.metrics for run in runs])


def average(runs: Sequence[GlueRun], tasks: Sequence[str]) -> float | None:
    """Mean score of the tasks that count; None if none of them does."""
    scores: list[float] = []
    for task in tasks:
        if task not in NOT_AVERAGED:
            scores.append(mean_score(best_runs(runs, task)))
    if not scores:
        return None
    return mean(scores)


def table(runs: Sequence[GlueRun], tasks: Sequence[str]) -> str:
    """One line for each task, with its best learning rate, and the average; all in percent."""
    rows = [("task", "metric", "dev", "score", "best lr", "seeds")]
    for task in tasks:
        spec, chosen = TASKS[task], best_runs(runs, task)
        values = mean_metrics(chosen)
        if len(spec.dev_splits) > 1:  # MNLI: both of them, by one metric
            (metric,) = spec.metrics
            values = {}
            for split in spec.dev_splits:
                values[f"{metric} {split.partition('_')[2]}"] = mean(run.scores[split][metric] for run in chosen)
        score = f"{100 * mean_score(chosen):.2f}"
        if len(chosen) > 1 and not math.isnan(mean_score(chosen)):
            score += f" ± {100 * stdev(run.score for run in chosen):.2f}"
        shown: list[str] = []
        for value in values.values():
            shown.append(f"{100 * value:.2f}")
        rows.append((spec.folder, " / ".join(values), " / ".join(shown), score, f"{chosen[0].lr:g}", str(len(chosen))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for row in rows:
        lines.append("  ".join(map(str.ljust, row, widths)).rstrip())
    mean_of_all = average(runs, tasks)
    if mean_of_all is not None:
        counted = len(set(tasks).difference(NOT_AVERAGED))
        of_all = ""
        if counted < len(TASKS) - len(NOT_AVERAGED):
            of_all = f"; GLUE's is over {len(TASKS) - len(NOT_AVERAGED)}, so this one cannot be compared with it"
        lines.append(f"average over {counted} tasks: {100 * mean_of_all:.2f} (WNLI never counts{of_all})")
    return "\n".join(lines)


def _means(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric over several runs or development sets, which have the same ones."""
    means: dict[str, float] = {}
    for name in metrics[0]:
        means[name] = mean(values[name] for values in metrics)
    return means


def _rank(score: float) -> float:
    """The score for comparisons, in which NaN would win or lose by its place."""
    if math.isnan(score):
        return -math.inf
    return score


def _without_nan(content: Any) -> Any:
    """The content with null for NaN, which JSON does not have."""
    if isinstance(content, dict):
        return dict(zip(content, map(_without_nan, content.values()), strict=True))
    if isinstance(content, list):
        return list(map(_without_nan, content))
    if isinstance(content, float) and math.isnan(content):
        return None
    return content


def last_metrics(file: Path) -> dict[str, float]:
    """The last value of each metric in a ``metrics.csv``."""
    last: dict[str, float] = {}
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            for name, value in row.items():
                if value:
                    last[name] = float(value)
    return last


def predictions(file: Path) -> list[str]:
    """The predictions in a file of `d2v predict`, row by row."""
    found: list[str] = []
    with file.open(encoding="utf-8", newline="") as lines:
        column = next(lines).rstrip("\n").split("\t").index("prediction")
        for line in lines:
            found.append(line.rstrip("\n").split("\t")[column])
    return found

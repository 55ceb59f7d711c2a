"""``d2v glue``: all tasks of GLUE from one pretrained encoder, with a sweep of learning rates, and the table."""

import argparse
import gc
import itertools
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from d2v.commands.arguments import add_modality
from d2v.errors import Interrupted, UserError
from d2v.whole_files import write_text

if TYPE_CHECKING:  # nothing heavy is imported before the arguments are known to be right
    from d2v.modalities.text.labelled.glue_results import GlueResults, GlueRun

LEARNING_RATES = (1e-5, 2e-5, 4e-5, 6e-5)
_ONE_DEVICE = ("trainer.devices", "trainer.num_nodes")
_OURS = ("data.root", "data.task", "data.val_split", "data.predict_on", "model.checkpoint", "model.optimizer.lr",
         "seed_everything", "run_name", "resume", "ckpt_path", "trainer.default_root_dir")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = (
        "Finished runs are read from DIR/results.json and not repeated: call it again to go on, or with more tasks, "
        "rates or seeds. A task's score is that of the learning rate with the best mean over the seeds on the "
        "development set, after the last epoch."
    )
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="a run's folder, .ckpt or imported folder")
    parser.add_argument("--root", required=True, type=Path, metavar="DIR", help="where CoLA, SST-2, MRPC, ... lie")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="runs, results.json, submission/")
    add_modality(parser)
    parser.add_argument("--tasks", metavar="cola,sst2,...", help="default: all that are there")
    parser.add_argument("--lr", type=float, nargs="+", default=LEARNING_RATES, help="to try (1e-5 2e-5 4e-5 6e-5)")
    parser.add_argument("--seeds", type=int, nargs="+", default=(1,), metavar="N", help="one run each (1)")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="values of the recipes finetune/glue/TASK.yaml that differ: trainer.max_epochs=3 data.max_length=128",
    )


def run(args: argparse.Namespace) -> None:
    """Fine-tune on each task, print the table and write the submission files.

    Raises:
        UserError: An option or the data is wrong, or DIR holds the results of something else.
    """
    tasks = None if args.tasks is None else args.tasks.split(",")
    results = fine_tune_on_glue(
        args.checkpoint, args.root, args.output, tasks, args.lr, args.seeds, args.set, args.modality
    )

    from d2v.modalities.text.labelled.glue import TASKS
    from d2v.modalities.text.labelled.glue_results import table

    print(table(results.runs, results.tasks))
    missing = [task.folder for name, task in TASKS.items() if name not in results.tasks]
    if missing and tasks is None:
        print(f"missing in {args.root}: {', '.join(missing)}")
    print(f"results: {results.file}")
    submitted = sorted(path.name for path in results.submission.glob("*.tsv"))
    if submitted:
        print(f"submission: {results.submission} ({', '.join(submitted)})")


def fine_tune_on_glue(
    checkpoint: str | Path,
    root: str | Path,
    output: str | Path,
    tasks: Sequence[str] | None = None,
    learning_rates: Sequence[float] = LEARNING_RATES,
    seeds: Sequence[int] = (1,),
    settings: Sequence[str] = (),
    modality: str | None = None,
) -> "GlueResults":
    """Fine-tune an encoder on tasks of GLUE, with each learning rate and seed; this is ``d2v glue``.

    Finished runs lie in ``output`` and are not repeated; an interrupted run goes on where it stopped. The predictions
    of each task's best run for its test sets are written into ``output/submission``.

    Args:
        checkpoint: A run's folder, ``.ckpt`` or imported folder.
        root: Folder where CoLA, SST-2, MRPC, ... lie.
        output: Folder for runs and results.
        tasks: By GLUE's or Hugging Face's names; None: all that are there.
        learning_rates: To try; a task's score is that of the one with the best mean over the seeds.
        seeds: One run each.
        settings: ``KEY=VALUE`` of the recipes ``finetune/glue/TASK.yaml`` that differ.
        modality: Which encoder of a checkpoint that holds several.

    Raises:
        UserError: A value or the data is wrong, or ``output`` holds the results of something else.
        Interrupted: It was stopped.
    """
    pairs = _checked(settings)
    if modality is not None:
        pairs.append(f"model.modality={modality}")
    encoder = Path(checkpoint).expanduser().resolve()
    if not encoder.exists():
        raise UserError(f"--checkpoint {checkpoint}: no such file or folder")

    from d2v.modalities.text.labelled.glue_results import GlueResults, best_of

    folder = Path(root).expanduser().resolve()
    found = _find_tasks(root, folder, tasks)
    results = GlueResults.open(Path(output), encoder, folder, pairs)
    results.tasks = list(found)
    results.save()  # so that even an interrupted first run is known to belong to this encoder and data
    done = {(run.task, run.lr, run.seed) for run in results.runs}
    planned = list(dict.fromkeys(itertools.product(found, learning_rates, seeds)))
    rest = [plan for plan in planned if plan not in done]
    print(f"GLUE: {len(planned)} runs, {len(planned) - len(rest)} of them done already", flush=True)
    try:
        for task in found:
            for number, (of_task, lr, seed) in enumerate(rest, 1):
                if of_task == task:
                    print(f"run {number} of {len(rest)}: {task}, learning rate {lr:g}, seed {seed}", flush=True)
                    results.runs.append(_fine_tune(task, lr, seed, results))
                    results.save()
            best = best_of(results.runs, task)
            _predict(task, found[task], best.folder, results)
            for other in results.runs:  # weights are gigabytes each
                if other.task == task and other.folder != best.folder:
                    shutil.rmtree(results.output / "runs" / other.folder / "checkpoints", ignore_errors=True)
    except Interrupted as stop:
        raise Interrupted("stopped; the same command goes on where it was", stop.signal_number) from stop
    return results


def _checked(pairs: Sequence[str]) -> list[str]:
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.removeprefix("--").replace(".init_args.", ".")
        if not equals or not key:
            raise UserError(f"--set {pair}: must be KEY=VALUE, such as trainer.max_epochs=3")
        if key in _OURS:
            raise UserError(f"--set {pair}: `d2v glue` sets {key} itself; see its options")
        if key in _ONE_DEVICE and value != "1":
            raise UserError(
                f"--set {pair}: each run is on one device; on several, start `d2v glue` once for each, with other "
                "--tasks and --output"
            )
    return sorted(pair.removeprefix("--") for pair in pairs)


def _find_tasks(root: str | Path, folder: Path, names: Sequence[str] | None) -> dict[str, Path]:
    """Folders of the tasks to run, by name."""
    from d2v.modalities.text.labelled.glue import TASKS, find_task_folder

    if not folder.is_dir():
        raise UserError(f"--root {root}: no such folder")
    there: dict[str, Path] = {}
    for name in TASKS:
        place = find_task_folder(folder, name)
        if place is not None:
            there[name] = place
    if names is None:
        if not there:
            folders = ", ".join(task.folder for task in TASKS.values())
            raise UserError(f"--root {root}: has none of the folders {folders}")
        return there
    chosen: dict[str, Path] = {}
    for given in names:
        name = given.strip().lower().replace("-", "")
        if name not in TASKS:
            raise UserError(f"--tasks: there is no task {name!r}; there are {', '.join(TASKS)}")
        if name not in there:
            raise UserError(f"--tasks {name}: --root {root} has no folder {TASKS[name].folder}")
        chosen[name] = there[name]
    return chosen


def _fine_tune(task: str, lr: float, seed: int, results: "GlueResults") -> "GlueRun":
    """One run: train, and score what the last epoch left on each development set."""
    from d2v.modalities.text.labelled.glue import TASKS
    from d2v.modalities.text.labelled.glue_results import GlueRun, last_metrics

    spec, runs, name = TASKS[task], results.output / "runs", f"{task}-lr{lr:g}-seed{seed}"
    words = [f"--config=finetune/glue/{task}.yaml", f"--model.checkpoint={results.checkpoint}"]
    words += [f"--data.root={results.root}", f"--model.optimizer.lr={lr!r}", f"--seed_everything={seed}"]
    words += [f"--trainer.default_root_dir={runs}", f"--run_name={name}", "--trainer.devices=1"]
    words += map("--".__add__, results.settings)
    folder = _train("fit", *words, "--resume=auto")  # an interrupted run goes on where it stopped
    scores: dict[str, dict[str, float]] = {}
    for split in spec.dev_splits:
        again = _train("validate", *_config_of(folder), f"--data.val_split={split}", "--verbose=false")
        found = last_metrics(again / "metrics.csv")
        scores[split] = {metric: found[f"val/{metric}"] for metric in spec.metrics}
        shutil.rmtree(again)
    for left in runs.iterdir():  # folders that interrupted calls have left
        if left != folder and re.fullmatch(rf"{re.escape(name)}(-\d+)?", left.name):
            shutil.rmtree(left)
    return GlueRun(task, lr, seed, folder.name, scores)


def _predict(task: str, folder: Path, run: str, results: "GlueResults") -> None:
    """Write the files to hand in for the test sets that are there, unless this run's lie there already."""
    from d2v.modalities.text.labelled.glue import TASKS, find_glue_split, submission
    from d2v.modalities.text.labelled.glue_results import predictions

    for split, name in TASKS[task].submissions.items():
        file = results.submission / f"{name}.tsv"
        if not find_glue_split(folder, task, split) or (results.submitted.get(name) == run and file.is_file()):
            continue
        made = _train("predict", *_config_of(results.output / "runs" / run), f"--data.predict_on={split}")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, submission(predictions(made / "predictions.tsv"), TASKS[task]))
        shutil.rmtree(made)
        results.submitted[name] = run
        results.save()


def _config_of(folder: Path) -> list[str]:
    return [f"--config={folder / 'config.yaml'}", f"--ckpt_path={folder}/checkpoints/last.ckpt"]


def _train(*words: str) -> Path:
    """Run a trainer command in this process.

    Returns:
        The folder that it made.
    """
    from d2v.commands.early_checks import checked_words
    from d2v.commands.run import run_trainer
    from d2v.commands.run_folder import RUN_DIR_VARIABLE

    run_trainer(checked_words(words[0], words[1:]))
    gc.collect()  # Lightning's objects hold each other, and the weights
    return Path(os.environ[RUN_DIR_VARIABLE])

"""``d2v glue``: all tasks of GLUE from one pretrained encoder, with a sweep of learning rates, and the table."""

import argparse
import gc
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from d2v.errors import Interrupted, UserError

if TYPE_CHECKING:  # nothing heavy is imported before the arguments are known to be right
    from d2v.commands.glue_results import Results, Run

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
    settings = _settings(args.set)
    checkpoint = Path(args.checkpoint).expanduser().resolve()
    if not checkpoint.exists():
        raise UserError(f"--checkpoint {args.checkpoint}: no such file or folder")

    from d2v.commands.glue_results import Results, table
    from d2v.modalities.text.labelled.glue import TASKS

    tasks, missing = _tasks(args)
    results = Results.open(args.output, checkpoint, args.root.expanduser().resolve(), settings)
    results.save()  # what an interrupted run was of is known from its first step on
    planned = list(dict.fromkeys((task, lr, seed) for task in tasks for lr in args.lr for seed in args.seeds))
    done = {(found.task, found.lr, found.seed) for found in results.runs}
    rest = [plan for plan in planned if plan not in done]
    print(f"GLUE: {len(planned)} runs, {len(planned) - len(rest)} of them done already", flush=True)
    try:
        _run_all(tasks, rest, results)
    except Interrupted as stop:
        raise Interrupted("stopped; the same command goes on where it was", stop.signal_number) from stop
    print(table(results.runs, tasks))
    if missing:
        print(f"missing in {args.root}: {', '.join(TASKS[name].folder for name in missing)}")
    print(f"results: {results.file}")
    if submitted := sorted(path.name for path in results.submission.glob("*.tsv")):
        print(f"submission: {results.submission} ({', '.join(submitted)})")


def _run_all(tasks: Sequence[str], plans: Sequence[tuple[str, float, int]], results: "Results") -> None:
    """Task by task; each then hands in what its best run predicts, whose weights alone stay."""
    from d2v.commands.glue_results import best_of
    from d2v.modalities.text.labelled.glue import find_task_folder

    for task in tasks:
        for _, lr, seed in (plan for plan in plans if plan[0] == task):
            number = plans.index((task, lr, seed)) + 1
            print(f"run {number} of {len(plans)}: {task}, learning rate {lr:g}, seed {seed}", flush=True)
            results.add(_fine_tune(task, lr, seed, results))
        best = best_of(results.runs, task)
        folder = find_task_folder(results.root, task)
        assert folder is not None
        _predict(task, folder, best.folder, results)
        for other in results.runs:  # gigabytes each
            if other.task == task and other.folder != best.folder:
                shutil.rmtree(results.output / "runs" / other.folder / "checkpoints", ignore_errors=True)


def _settings(pairs: Sequence[str]) -> list[str]:
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


def _tasks(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Tasks to run, and those that are not there."""
    from d2v.modalities.text.labelled.glue import TASKS, find_task_folder

    if not args.root.expanduser().is_dir():
        raise UserError(f"--root {args.root}: no such folder")
    found = {name: find_task_folder(args.root.expanduser().resolve(), name) for name in TASKS}
    if args.tasks is None:
        there = [name for name, folder in found.items() if folder is not None]
        if not there:
            folders = ", ".join(task.folder for task in TASKS.values())
            raise UserError(f"--root {args.root}: has none of the folders {folders}")
        return there, [name for name in TASKS if name not in there]
    chosen = list(dict.fromkeys(name.strip().lower().replace("-", "") for name in args.tasks.split(",")))
    for name in chosen:
        if name not in TASKS:
            raise UserError(f"--tasks: there is no task {name!r}; there are {', '.join(TASKS)}")
        if found[name] is None:
            raise UserError(f"--tasks {name}: --root {args.root} has no folder {TASKS[name].folder}")
    return chosen, []


def _fine_tune(task: str, lr: float, seed: int, results: "Results") -> "Run":
    """One run: train, and score what the last epoch left on each development set."""
    from d2v.commands.glue_results import Run, last_metrics
    from d2v.commands.run_folder import newest_checkpoint
    from d2v.modalities.text.labelled.glue import TASKS

    spec, runs, name = TASKS[task], results.output / "runs", f"{task}-lr{lr:g}-seed{seed}"
    words = [f"--config=finetune/glue/{task}.yaml", f"--model.checkpoint={results.checkpoint}"]
    words += [f"--data.root={results.root}", f"--model.optimizer.lr={lr!r}", f"--seed_everything={seed}"]
    words += [f"--trainer.default_root_dir={runs}", f"--run_name={name}", "--trainer.devices=1"]
    # An interrupted run goes on where it stopped.
    folder = _train("fit", *words, *(f"--{pair}" for pair in results.settings), "--resume=auto")
    newest = newest_checkpoint(runs, name)
    assert newest is not None
    if Path(newest).parents[1] != folder:  # it had come to its end before, and nothing was left to train
        shutil.rmtree(folder)
        folder = Path(newest).parents[1]
    scores: dict[str, dict[str, float]] = {}
    for split in spec.dev_splits:
        again = _train("validate", *_config_of(folder), f"--data.val_split={split}", "--verbose=false")
        found = last_metrics(again / "metrics.csv")
        scores[split] = {metric: found[f"val/{metric}"] for metric in spec.metrics}
        shutil.rmtree(again)
    for left in runs.iterdir():  # by interrupted calls
        if left != folder and re.fullmatch(rf"{re.escape(name)}(-\d+)?", left.name):
            shutil.rmtree(left)
    return Run(task, lr, seed, folder.name, scores)


def _predict(task: str, folder: Path, run: str, results: "Results") -> None:
    """The files to hand in of the test sets that are there, unless they have been made from this run already."""
    from d2v.commands.glue_results import predictions
    from d2v.modalities.text.labelled.glue import TASKS, find_glue_split, submission

    for split, name in TASKS[task].submissions.items():
        file = results.submission / f"{name}.tsv"
        if not find_glue_split(folder, task, split) or (results.submitted.get(name) == run and file.is_file()):
            continue
        made = _train("predict", *_config_of(results.output / "runs" / run), f"--data.predict_on={split}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(submission(predictions(made / "predictions.tsv"), TASKS[task]), encoding="utf-8")
        shutil.rmtree(made)
        results.submitted[name] = run
        results.save()


def _config_of(folder: Path) -> list[str]:
    return [f"--config={folder / 'config.yaml'}", f"--ckpt_path={folder}"]


def _train(*words: str) -> Path:
    """Run a trainer command in this process; the folder that it made."""
    from d2v.commands.run import run_trainer
    from d2v.commands.run_folder import RUN_DIR_VARIABLE

    run_trainer(words)
    gc.collect()  # Lightning's objects hold each other, and the weights
    return Path(os.environ[RUN_DIR_VARIABLE])

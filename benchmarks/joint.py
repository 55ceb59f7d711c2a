"""What a shared trunk costs or brings: a joint run beside three runs of one medium.

    python benchmarks/joint.py FOLDER --data DATA [--steps 500] [--seeds 0 1 2] [--runs joint single own_first]

DATA holds cifar10/ (train/ and val/ by class), librispeech/, fsdd/ (the same, digits) and imdb/ (raw.txt, train.tsv,
test.tsv). The single runs have as many blocks together as the joint one (2 + 2 + 2 against 6), and each trains until it
has spent the operations that its medium gets in the joint run, which takes it about three times as many samples;
``single_as_long`` are the same with as many samples as the joint run has of that medium. ``own_first`` shares three
blocks behind one of each medium's own. A linear probe and kNN are read beside the same encoder before training. A line
for each run and medium; finished runs are not trained again. ``--table FILES`` makes a table of such lines.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scipy import stats

RECIPES = {
    "vision": "learn/vision_cifar10.yaml",
    "speech": "learn/speech_mini_librispeech.yaml",
    "text": "learn/text_imdb.yaml",
}
ROOTS = {"vision": "cifar10", "speech": "librispeech", "text": "imdb/raw.txt"}
PROBES = {
    "vision": ["--config", RECIPES["vision"], "--data.root", "cifar10"],
    "speech": ["--config", RECIPES["speech"], "--config", "learn/speech_digits.yaml", "--data.root", "fsdd"],
    "text": ["--config", RECIPES["text"], "--config", "learn/text_imdb_labels.yaml", "--data.root", "imdb"],
}
MOST_PROBED = "2000"
WIDTH = 96
BATCHES = {"vision": 32, "speech": 7.5, "text": 1024}
"""Pictures, seconds and tokens of a step: what three seeds take two cores a few hours for."""
OWN_FIRST = ["--model.trunk.depth", "3"]
for _medium in RECIPES:
    OWN_FIRST += [f"--model.media.{_medium}.front.prenet_depth", "1"]
JOINT_RUNS = {"joint": [], "own_first": OWN_FIRST}
SINGLE_RUNS = ("single", "single_as_long")
SCORES = ("linear_top1", "knn_top1")
COMMAND = [sys.executable, "-m", "d2v.cli"]


def last_line(words: list[str]) -> dict[str, Any]:
    """Of the output of a command, which is a JSON object."""
    told = subprocess.run([*COMMAND, *words], check=True, capture_output=True, text=True).stdout
    return json.loads(told.strip().splitlines()[-1])


def operations(words: list[str]) -> float:
    """Of a step."""
    found = last_line(["bench", *words, "--precision", "32", "--steps", "1"])["flops_per_step"]
    assert found is not None
    return found


def single_words(medium: str, data: Path) -> list[str]:
    """Its own recipe, with the rates and decay of that; only the sizes are others."""
    words = ["--config", RECIPES[medium], "--data.root", str(data / ROOTS[medium])]
    words += ["--data.batch_size", str(BATCHES[medium]), "--model.student.trunk.width", str(WIDTH)]
    return [*words, "--model.student.trunk.depth", "2", "--model.targets.top_k", "2"]


def joint_words(data: Path, media: Iterable[str] = tuple(RECIPES)) -> list[str]:
    words = ["--config", "learn/joint.yaml", "--model.trunk.width", str(WIDTH)]
    for medium, root in ROOTS.items():
        if medium in media:
            part = f"--data.parts.{medium}"
            words += [f"{part}.root", str(data / root), f"{part}.batch_size", str(BATCHES[medium])]
        else:
            words += [f"--media.{medium}", "null"]
    return words


def train(folder: Path, name: str, words: list[str], steps: int, seed: int) -> Path:
    run = folder / name
    if not (run / "checkpoints" / "last.ckpt").exists():
        shutil.rmtree(run, ignore_errors=True)
        options = ["--trainer.default_root_dir", str(folder), "--run_name", name, "--seed_everything", str(seed)]
        options += ["--trainer.max_steps", str(steps), "--trainer.callbacks", "null"]
        options += ["--trainer.enable_progress_bar", "false"]
        subprocess.run([*COMMAND, "fit", *words, *options], check=True, capture_output=True)
    return run


def probed(run: Path, medium: str, data: Path, joint: bool) -> dict[str, float]:
    """Trained and untrained."""
    words = list(PROBES[medium])
    words[-1] = str(data / words[-1])
    which = ["--modality", medium] if joint else []
    result = last_line(
        ["probe", "--checkpoint", str(run), *which, "--checkpoint", "random", *words, "--max_samples", MOST_PROBED]
    )
    scores = {}
    for score in SCORES:
        scores[score], scores[f"untrained {score}"] = result[score], result["baseline"][score]
    return scores


def steps_of_singles(data: Path, steps: int) -> dict[str, int]:
    """So many that a medium gets as many operations as in the joint run."""
    found = {}
    for medium in RECIPES:
        found[medium] = round(steps * operations(joint_words(data, [medium])) / operations(single_words(medium, data)))
    return found


def interval(values: list[float]) -> str:
    """Mean, and half the width of its 95% interval by Student's t."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.1f} ± {half:.1f}"


def table(lines: Iterable[str]) -> str:
    """Gains over the untrained encoder in points, and the share of a single run's gain that is kept."""
    gains: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    before: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for line in lines:
        told = json.loads(line)
        if "medium" not in told:
            continue
        for score in SCORES:
            key = (told["medium"], score, told["run"])
            gains[key].append(100 * (told[score] - told[f"untrained {score}"]))
            before[key].append(100 * told[f"untrained {score}"])
    rows = [
        "| medium | score | run | untrained | gain | of the single run's gain |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for key, values in sorted(gains.items()):
        medium, score, run = key
        single = gains[medium, score, "single"]
        share = f"{100 * statistics.fmean(values) / statistics.fmean(single):.0f}%" if single else ""
        rows.append(f"| {medium} | {score} | {run} | {interval(before[key])} | {interval(values)} | {share} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=500, help="of the joint run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    runs = [*JOINT_RUNS, *SINGLE_RUNS]
    parser.add_argument("--runs", nargs="+", choices=runs, default=runs)
    parser.add_argument("--keys", nargs="*", default=[], help="changes to the joint runs: KEY=VALUE, under a --name")
    parser.add_argument("--name", default="", help="of changed joint runs")
    parser.add_argument("--table", type=Path, nargs="+", help="files of such lines, to make a table of")
    given = parser.parse_args()
    if given.table:
        lines = []
        for path in given.table:
            lines += path.read_text().splitlines()
        print(table(lines))
        return
    steps = dict.fromkeys(RECIPES, given.steps)
    if "single" in given.runs:
        steps = steps_of_singles(given.data, given.steps)
        print(json.dumps({"steps of single runs": steps}), flush=True)
    changes = [f"--{key}" for key in given.keys]
    for seed in given.seeds:
        for name in given.runs:
            for medium in RECIPES:
                if name in SINGLE_RUNS:
                    run_name, words = f"{name}-{medium}-{seed}", single_words(medium, given.data)
                    count = steps[medium] if name == "single" else given.steps
                else:
                    run_name, count = f"{name}{given.name}-{seed}", given.steps
                    words = [*joint_words(given.data), *JOINT_RUNS[name], *changes]
                run = train(given.folder, run_name, words, count, seed)
                scores = probed(run, medium, given.data, name in JOINT_RUNS)
                line = {"run": name + given.name, "medium": medium, "seed": seed, "steps": count, **scores}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

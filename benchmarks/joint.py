"""What a shared trunk costs or brings: a joint run beside three runs of one medium.

    python benchmarks/joint.py FOLDER --data DATA [--steps 1500] [--seeds 3] [--runs joint single own_first]

DATA holds cifar10/ (train/ and val/ by class), librispeech/, fsdd/ (the same, digits) and imdb/ (raw.txt, train.tsv,
test.tsv). The single runs have as many blocks together as the joint one (2 + 2 + 2 against 6), and each trains until it
has spent the operations that its medium gets in the joint run. ``own_first`` shares three blocks behind one of each
medium's own. A linear probe and kNN are read beside the same encoder before training. A line for each run and medium;
finished ones are not repeated.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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
OWN_FIRST = ["--model.trunk.depth", "3"]
for _medium in RECIPES:
    OWN_FIRST += [f"--model.media.{_medium}.front.prenet_depth", "1"]
JOINT_RUNS = {"joint": [], "own_first": OWN_FIRST}
SINGLE = {
    "--model.student.trunk.width": "128",
    "--model.student.trunk.depth": "2",
    "--model.student.trunk.eps": "1e-5",
    "--model.targets.top_k": "2",
    "--model.optimizer.lr": "1e-3",
    "--model.optimizer.betas": "[0.9, 0.98]",
    "--model.optimizer.weight_decay": "0.01",
    "--model.ema.start": "0.99",
    "--model.ema.end": "0.9995",
    "--model.ema.anneal": "0.5",
    "--model.schedule.warmup": "0.067",
    "--trainer.gradient_clip_val": "4.0",
}
"""As in learn/joint.yaml, but for the depth: what differs is the trunk that is shared."""
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
    words = ["--config", RECIPES[medium], "--data.root", str(data / ROOTS[medium])]
    for option, value in SINGLE.items():
        words += [option, value]
    return words


def joint_words(data: Path, media: list[str] | None = None) -> list[str]:
    words = ["--config", "learn/joint.yaml"]
    for medium, root in ROOTS.items():
        if media is None or medium in media:
            words += [f"--data.parts.{medium}.root", str(data / root)]
        else:
            words += [f"--media.{medium}", "null"]
    return words


def train(folder: Path, name: str, words: list[str], steps: int, seed: int) -> Path:
    run = folder / name
    if not (run / "checkpoints" / "last.ckpt").exists():
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
    for score in ("linear_top1", "knn_top1"):
        scores[score], scores[f"untrained {score}"] = result[score], result["baseline"][score]
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500, help="of the joint run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", nargs="+", choices=[*JOINT_RUNS, "single"], default=[*JOINT_RUNS, "single"])
    parser.add_argument("--keys", nargs="*", default=[], help="changes to the joint runs: KEY=VALUE, under a --name")
    parser.add_argument("--name", default="", help="of changed joint runs")
    given = parser.parse_args()
    steps = {}
    if "single" in given.runs:
        for medium in RECIPES:
            of_joint = operations(joint_words(given.data, [medium]))
            steps[medium] = round(given.steps * of_joint / operations(single_words(medium, given.data)))
        print(json.dumps({"steps of single runs": steps}), flush=True)
    changes = [f"--{key}" for key in given.keys]
    for seed in range(given.seeds):
        for name in given.runs:
            for medium in RECIPES:
                if name == "single":
                    run_name, count = f"single-{medium}-{seed}", steps[medium]
                    words = single_words(medium, given.data)
                else:
                    run_name, count = f"{name}{given.name}-{seed}", given.steps
                    words = [*joint_words(given.data), *JOINT_RUNS[name], *changes]
                run = train(given.folder, run_name, words, count, seed)
                scores = probed(run, medium, given.data, name != "single")
                line = {"run": name + given.name, "medium": medium, "seed": seed, "steps": count, **scores}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

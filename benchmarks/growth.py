"""How step time, memory and operations grow with batch, length, masks and size, with exponents by least squares.

    python benchmarks/growth.py FOLDER                      # CPU, small models: about ten minutes
    python benchmarks/growth.py FOLDER --base               # Base models, for a GPU
    python benchmarks/growth.py FOLDER --draw               # the chart alone, from the folder's growth.json

Writes growth.json and growth.png. Each point is `d2v bench` in a process of its own, the least of its steps, since a
machine that others use only ever adds to it. On a CPU they are seconds of one thread's time, and memory is what the
process holds at most beyond what it held before the model was built; on a GPU that of all tensors.
"""

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from d2v.bench import steps, stopwatch
from d2v.commands.bench_recipe import bench_recipe

TRUNK = "model.student.trunk."
SMALL = {
    "pictures a batch": ("demo/vision.yaml", "data.batch_size", [8, 16, 32, 64, 128]),
    "masks a picture (M)": ("demo/vision.yaml", "model.num_masks", [1, 2, 4, 8, 16]),
    "side of a picture": ("demo/vision.yaml", "data.image_size", [32, 48, 64, 96]),
    "width": ("demo/vision.yaml", f"{TRUNK}width", [96, 192, 384]),
    "depth": ("demo/vision.yaml", f"{TRUNK}depth", [4, 8, 16]),
    "seconds a clip": ("demo/speech.yaml", "data.max_seconds", [2, 4, 8, 15]),
    "tokens a text": ("demo/text.yaml", "data.block_size", [128, 256, 512, 1024]),
}
BASE = {
    "pictures a batch": ("v2/vision.yaml", "data.batch_size", [8, 16, 32, 64]),
    "masks a picture (M)": ("v2/vision.yaml", "model.num_masks", [2, 4, 8, 16]),
    "side of a picture": ("v2/vision.yaml", "data.image_size", [160, 224, 320]),
    "seconds of audio a batch": ("v2/speech.yaml", "data.batch_size", [16, 32, 64, 128]),
}
CLIPS, TEXTS = 4, 4
"""A batch, whatever their length."""
MEASURED = {"step_seconds_least": "seconds a step", "memory_gb": "GB", "flops_per_step": "operations a step"}
STEPS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", action="store_true", help="Base models")
    parser.add_argument("--draw", action="store_true", help="no measurement")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "growth.json"
    if not options.draw:
        found = measure(BASE if options.base else SMALL)
        path.write_text(json.dumps(found, indent=1) + "\n")
    found = json.loads(path.read_text())
    for name, curve in found.items():
        laws = []
        for each, unit in MEASURED.items():
            constant, factor, power = law(curve["rows"], each)
            laws.append(f"{unit} {constant:.3g} + {factor:.3g} x^{power:.2f}")
        shown = ", ".join(laws)
        print(f"{name}: {shown}", flush=True)
    draw(found, options.folder / "growth.png")


def measure(curves: dict[str, tuple[str, str, list[int]]]) -> dict:
    found = {}
    for name, (recipe, key, values) in curves.items():
        found[name] = {"recipe": recipe, "key": key, "rows": []}
        for value in values:
            with ProcessPoolExecutor(1, mp_context=get_context("fork")) as process:
                row = {"value": value} | process.submit(point, recipe, key, value).result()
            found[name]["rows"].append(row)
            print(name, row, flush=True)
    return found


def point(recipe: str, key: str, value: int) -> dict[str, float]:
    """In a process that has measured nothing yet."""
    changes: dict[str, float] = {key: value}
    if key == "data.image_size":
        changes["model.student.front.image_size"] = value
    if key == f"{TRUNK}width":
        changes[f"{TRUNK}num_heads"] = value // 32
    if key == "data.max_seconds":
        changes |= {"data.batch_size": CLIPS * value, "data.max_eval_seconds": value}
    if key == "data.block_size":
        changes["data.batch_size"] = TEXTS * value
    steps._CEILING_SECONDS = 0.0  # not looked at
    before = 0.0
    if recipe.startswith("demo/"):
        torch.set_num_threads(1)
        stopwatch.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
        lines = Path("/proc/self/status").read_text().splitlines()
        line = next(line for line in lines if line.startswith("VmRSS:"))
        before = int(line.split()[1]) * 1024 / 1e9
    result = bench_recipe(recipe, steps=STEPS, **changes)
    result["memory_gb"] = result["peak_memory_gb"] - before
    return {each: result[each] for each in MEASURED}


def law(rows: list[dict[str, float]], name: str) -> tuple[float, float, float]:
    """The constant a, factor b and exponent p of a + b x^p through all points: least squares of logarithms, a >= 0.

    The constant is what does not grow: the model, its moments and gradients, what Lightning does in a step.
    """
    x = np.array([row["value"] for row in rows])
    y = np.array([row[name] for row in rows])
    best = (math.inf, 0.0, 0.0, 0.0)
    for share in np.linspace(0, 0.95, 96) if len(rows) > 3 else [0.0]:
        constant = share * y.min()
        power, log_factor = np.polyfit(np.log(x), np.log(y - constant), 1)
        fitted = constant + math.exp(log_factor) * x**power
        error = float(np.square(np.log(fitted / y)).sum())
        best = min(best, (error, float(constant), math.exp(log_factor), float(power)))
    return best[1:]


def draw(found: dict, path: Path) -> None:
    """Seconds and GB over each variable, both axes logarithmic; line: the law that was fitted; dashed: operations."""
    figure = Figure(figsize=(2.4 * len(found), 5), layout="constrained")
    grid = figure.subplots(2, len(found), squeeze=False)
    for column, (name, curve) in enumerate(found.items()):
        rows = curve["rows"]
        values = np.array([row["value"] for row in rows])
        line = np.geomspace(values.min(), values.max(), 50)
        operations = np.array([row["flops_per_step"] for row in rows])
        for axes, each in zip(grid[:, column], ("step_seconds_least", "memory_gb"), strict=True):
            measured = np.array([row[each] for row in rows])
            constant, factor, power = law(rows, each)
            axes.loglog(line, constant + factor * line**power, color="C0", linewidth=1)
            axes.loglog(values, measured, "o", color="C0")
            if each == "step_seconds_least":
                axes.loglog(values, operations / operations[-1] * measured[-1], "--", color="0.6")
            axes.set_xticks(values, [str(value) for value in values])
            axes.set_yticks(measured[[0, -1]], [f"{value:.2g}" for value in measured[[0, -1]]])
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.grid(alpha=0.3)
            shown = f"{constant:.2g} + c x^{power:.2f}" if constant else f"c x^{power:.2f}"
            axes.set_title(f"{MEASURED[each]}\n{shown}", fontsize=9)
        grid[1, column].set_xlabel(f"{name}\n{curve['recipe']}", fontsize=9)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()

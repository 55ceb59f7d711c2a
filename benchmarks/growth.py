"""How step time, memory and operations grow with batch, length, masks and size, with exponents by least squares.

    python benchmarks/growth.py FOLDER                      # CPU, small models: some minutes
    python benchmarks/growth.py FOLDER --base               # Base models, for a GPU

Writes growth.json and growth.png. Each figure is the median of `d2v bench`, five steps.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from d2v.commands.bench_recipe import bench_recipe

TRUNK = "model.student.trunk."
SMALL = {
    "pictures a batch": ("demo/vision.yaml", "data.batch_size", [8, 16, 32, 64, 128]),
    "masks a picture (M)": ("demo/vision.yaml", "model.num_masks", [1, 2, 4, 8, 16]),
    "side of a picture": ("demo/vision.yaml", "data.image_size", [32, 48, 64, 96]),
    "width": ("demo/vision.yaml", f"{TRUNK}width", [96, 192, 384]),
    "depth": ("demo/vision.yaml", f"{TRUNK}depth", [4, 8, 16]),
}
BASE = {
    "pictures a batch": ("v2/vision.yaml", "data.batch_size", [8, 16, 32, 64]),
    "masks a picture (M)": ("v2/vision.yaml", "model.num_masks", [2, 4, 8, 16]),
    "side of a picture": ("v2/vision.yaml", "data.image_size", [160, 224, 320]),
    "seconds of audio a batch": ("v2/speech.yaml", "data.batch_size", [16, 32, 64, 128]),
}
MEASURED = {"step_seconds": "seconds a step", "peak_memory_gb": "GB at most", "flops_per_step": "operations a step"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", action="store_true", help="Base models")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, (recipe, key, values) in (BASE if options.base else SMALL).items():
        rows = []
        for value in values:
            changes = {key: value}
            if key == "data.image_size":
                changes["model.student.front.image_size"] = value
            if key == f"{TRUNK}width":
                changes[f"{TRUNK}num_heads"] = value // 32
            result = bench_recipe(recipe, steps=5, **changes)
            rows.append({"value": value} | {each: result[each] for each in MEASURED})
            print(name, rows[-1], flush=True)
        exponents = {}
        for each in MEASURED:
            exponents[each] = exponent(rows, each)
        found[name] = {"recipe": recipe, "key": key, "rows": rows, "exponents": exponents}
        shown = ", ".join(f"{MEASURED[each]} ^{value:.2f}" for each, value in exponents.items())
        print(f"{name}: {shown}", flush=True)
    (options.folder / "growth.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, options.folder / "growth.png")


def exponent(rows: list[dict[str, float]], name: str) -> float:
    """Of a power law through all points."""
    x = [math.log(row["value"]) for row in rows]
    y = [math.log(row[name]) for row in rows]
    return float(np.polyfit(x, y, 1)[0])


def draw(found: dict, path: Path) -> None:
    figure = Figure(figsize=(3.2 * len(found), 6), layout="constrained")
    grid = figure.subplots(2, len(found), squeeze=False)
    for column, (name, what) in enumerate(found.items()):
        for axes, each in zip(grid[:, column], ("step_seconds", "peak_memory_gb"), strict=True):
            values = [row["value"] for row in what["rows"]]
            axes.loglog(values, [row[each] for row in what["rows"]], "o-")
            axes.set_xticks(values, [str(value) for value in values])
            axes.minorticks_off()
            axes.set_title(f"{MEASURED[each]} ^{what['exponents'][each]:.2f}", fontsize=9)
            axes.set_xlabel(f"{name}\n{what['recipe']}", fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()

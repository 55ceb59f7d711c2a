"""A plan on paper: hours of each published recipe on 8 GPUs, and what travels between 1 to 512 of them.

    python benchmarks/plan.py                       # from the step times below
    python benchmarks/plan.py FOLDER                # from the bench.json files of benchmarks/h100/run.sh FOLDER

Gradients are fp32, summed by rings: each device sends and receives 2 (n - 1) / n of them. Inside a node 350 GB/s,
between nodes 40 GB/s a device (what NCCL reaches of NVLink 4 and of 400 Gbit/s): arithmetic, not a measurement.
Hidden is what fits beside two thirds of the step, the backward pass.
"""

import json
import sys
from pathlib import Path

import torch

from d2v import from_recipe

# Seconds a step and units in it: one H100, bf16, published batches, before anything of docs/performance.md was done.
STEPS = {
    "v2/vision.yaml": (0.211, 64, "v2_vision"),
    "v2/speech.yaml": (0.0965, 62.4, "v2_speech"),
    "v2/text.yaml": (0.130, 8192, "v2_text"),
    "vision.yaml": (0.218, 128, "v1_vision"),
    "speech.yaml": (0.0947, 237, "v1_speech"),
    "text.yaml": (0.0564, 8192, "v1_text"),
}
# Steps and units of an optimizer step, of the recipes.
TOTAL = {
    "v2/vision.yaml": (375_300, 512),
    "v2/speech.yaml": (400_000, 500),
    "v2/text.yaml": (1_000_000, 32_768),
    "vision.yaml": (500_000, 2_048),
    "speech.yaml": (400_000, 3_800),
    "text.yaml": (1_000_000, 131_072),
}
IN_NODE, BETWEEN_NODES = 350e9, 40e9  # bytes a second


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    print(
        "| recipe | units/s a GPU | hours on 8 GPUs | gradients, MB | 8 GPUs, ms | 64 or 512 GPUs, ms "
        "| hidden below, ms |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for recipe, (seconds, units, name) in STEPS.items():
        if folder is not None:
            result = json.loads((folder / name / "bench.json").read_text())
            seconds = result["step_seconds"]
        steps, per_step = TOTAL[recipe]
        hours = steps * per_step / (8 * units / seconds) / 3600
        with torch.device("meta"):
            module = from_recipe(recipe)
        trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        megabytes = 4 * trained / 1e6
        node = 2 * 7 / 8 * megabytes * 1e6 / IN_NODE
        # Rings of 8 in each node first, then of one device of each node: an eighth of the gradients each.
        nodes = node + 2 * megabytes * 1e6 / 8 / (BETWEEN_NODES)
        print(
            f"| {recipe} | {units / seconds:,.0f} | {hours:.0f} | {megabytes:.0f} | {1000 * node:.1f} "
            f"| {1000 * nodes:.1f} | {1000 * seconds * 2 / 3:.0f} |"
        )


if __name__ == "__main__":
    main()

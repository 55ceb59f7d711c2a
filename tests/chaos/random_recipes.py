"""Recipes drawn over all knobs, each of which must train; run as a script, it trains many of them in one process.

python random_recipes.py FOLDER EXAMPLES SEED

The last line of stdout is JSON: of each that failed, the end of its output and the recipe.
"""

import contextlib
import csv
import io
import json
import logging
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import hypothesis
import lightning  # noqa: F401  (it sets up its handlers, which are taken away below)
import numpy as np
import soundfile
import torch
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from PIL import Image

from d2v.cli import main

MEDIA = {
    "vision": ("d2v.modalities.vision.front_end.VisionFrontEnd", "d2v.modalities.vision.data.ImageNetDataModule"),
    "speech": ("d2v.modalities.speech.front_end.SpeechFrontEnd", "d2v.modalities.speech.data.LibriSpeechDataModule"),
    "text": ("d2v.modalities.text.front_end.TextFrontEnd", "d2v.modalities.text.data.TextDataModule"),
}
VOCABULARY = 300
HIGHEST_LEARNING_RATE = 1e-3


def part(module: str, name: str, **values: Any) -> dict[str, Any]:
    return {"class_path": f"{module}.{name}", "init_args": values}


def share(draw: st.DrawFn, most: float = 0.5) -> float:
    return round(draw(st.one_of(st.just(0.0), st.floats(0, most))), 3)


@st.composite
def trunks(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.sampled_from([1, 2, 3, 4]))
    return {
        "width": 4 * heads * draw(st.integers(1, 4)),
        "depth": draw(st.integers(1, 4)),
        "num_heads": heads,
        "norm_first": draw(st.booleans()),
        "mlp_ratio": draw(st.sampled_from([0.5, 1.0, 2.5, 4.0])),
        "eps": draw(st.sampled_from([1e-6, 1e-5, 1e-12])),
        "output_norm": draw(st.booleans()),
        "output_eps": draw(st.sampled_from([None, 1e-5])),
        "key_bias": draw(st.booleans()),
        "layer_scale": draw(st.sampled_from([None, 1e-4, 1.0])),
        "dropout": share(draw),
        "attention_dropout": share(draw),
        "activation_dropout": share(draw),
        "drop_path": share(draw, 0.9),
        "layer_drop": share(draw, 0.9),
        "checkpoint_activations": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "weight_init": draw(st.sampled_from(["bert", "beit"])),
    }


def vision(draw: st.DrawFn, front: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values of the data, and the masking."""
    rows, columns = draw(st.sampled_from([(4, 4), (4, 6), (2, 3), (3, 3)]))
    patch = draw(st.sampled_from([4, 8]))
    size = [rows * patch, columns * patch]
    front.update(
        image_size=size,
        patch_size=patch,
        positions=draw(st.sampled_from(["sincos", "learned", None])),
        relative_bias=draw(st.sampled_from(["shared", "per_block", None])),
        num_cls=draw(st.integers(0, 2)),
    )
    data = {
        "image_size": draw(st.sampled_from([None, size])),
        "batch_size": draw(st.integers(1, 6)),
        "min_crop_scale": draw(st.floats(0.05, 1)),
        "flip": share(draw, 1),
        "color_jitter": share(draw),
        "random_erasing": share(draw, 1),
        "cache": draw(st.booleans()),
        "val_fraction": draw(st.sampled_from([0.0, 0.3])),
    }
    if draw(st.booleans()):
        data["augment"] = part("d2v.modalities.vision.rand_augment", "RandAugment")
    patches = rows * columns
    kind = draw(st.sampled_from(["InverseBlockMasking", "BlockMasking", "RandomMasking"]))
    if kind == "BlockMasking":
        masked = draw(st.integers(1, patches - 1))
        least = draw(st.integers(1, masked))
        most = draw(st.one_of(st.none(), st.integers(least, patches)))
        aspect = draw(st.floats(0.1, 1))
        values = {"num_patches": masked, "grid": [rows, columns], "min_block": least, "max_block": most}
        return data, part("d2v.model.masking", kind, **values, min_aspect=aspect)
    ratio = (draw(st.integers(1, patches - 1)) - 0.5) / patches  # between two counts, so that rounding decides nothing
    if kind == "RandomMasking":
        return data, part("d2v.model.masking", kind, mask_ratio=ratio)
    side = draw(st.integers(1, min(rows, columns)))
    return data, part("d2v.model.masking", kind, mask_ratio=ratio, block_size=side, adjust=share(draw))


def sequence_masking(draw: st.DrawFn, most: int) -> dict[str, Any]:
    kind = draw(st.sampled_from(["SpanMasking", "RandomSpanMasking", "RandomMasking"]))
    if kind == "RandomMasking":
        return part("d2v.model.masking", kind, mask_ratio=draw(st.floats(0.1, 0.9)))
    span = draw(st.integers(1, most))
    if kind == "SpanMasking":
        return part("d2v.model.masking", kind, mask_ratio=draw(st.floats(0.1, 0.9)), span=span, adjust=share(draw, 0.2))
    values = {"mask_prob": draw(st.floats(0.1, 1)), "span": span, "inside": draw(st.booleans())}
    return part("d2v.model.masking", kind, **values, shared_by=draw(st.sampled_from([None, 100, 1000])))


def speech(draw: st.DrawFn, front: dict[str, Any], width: int) -> tuple[dict[str, Any], dict[str, Any]]:
    front.update(
        extractor=draw(
            st.sampled_from(
                [
                    [[8, 10, 5], [8, 8, 8], [8, 8, 8]],
                    [[4, 400, 320]],
                    [[8, 10, 5], [6, 3, 2], [8, 2, 2], [4, 16, 16]],
                    [[2, 9, 10], [3, 20, 32]],
                ]
            )
        ),
        position_layers=draw(st.integers(1, 3)),
        position_kernel=draw(st.sampled_from([1, 3, 9, 19])),
        position_groups=draw(st.sampled_from([divisor for divisor in range(1, width + 1) if width % divisor == 0])),
        alibi=draw(st.booleans()),
        projection_init=draw(st.sampled_from(["torch", "bert"])),
    )
    longest = draw(st.sampled_from([0.5, 0.8, 1.3]))
    data = {
        "batch_size": round(max(1.0, longest * draw(st.integers(1, 4))), 3),
        "max_seconds": longest,
        "min_seconds": draw(st.sampled_from([0.1, 0.5])),
        "max_eval_seconds": draw(st.sampled_from([None, 0.5])),
        "normalize": draw(st.booleans()),
        "val_fraction": draw(st.sampled_from([0.0, 0.3])),
    }
    return data, sequence_masking(draw, 12)


def text(draw: st.DrawFn, front: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    front.update(vocab_size=VOCABULARY + 5, alibi=draw(st.booleans()))
    block = draw(st.sampled_from([8, 16, 30]))
    front["max_positions"] = draw(st.sampled_from([block, 64, None] if front["alibi"] else [block, 64]))
    if front["masked_input"] == "replace":
        front.update(random_tokens=share(draw), unchanged_tokens=share(draw))
    data = {
        "block_size": block,
        "batch_size": block * draw(st.integers(1, 5)),
        "break_mode": draw(st.sampled_from(["none", "complete_doc"])),
        "vocab_size": VOCABULARY,
        "shards": str(folder / "shards"),
        "val_fraction": 0.1,
    }
    return data, sequence_masking(draw, 6)


def heads(draw: st.DrawFn, medium: str, drops: bool) -> dict[str, Any]:
    if not drops:
        return part("d2v.model.heads", draw(st.sampled_from(["LinearHead", "MLPHead", "IdentityHead"])))
    groups = draw(st.sampled_from([1, 2, 4]))
    width = draw(st.sampled_from([4, 8, 16]))  # the trunk's is a multiple of 4, too
    return part(
        "d2v.model.heads",
        "ConvDecoder2d" if medium == "vision" else "ConvDecoder1d",
        decoder_width=width,
        num_layers=draw(st.integers(1, 3)),
        kernel_size=draw(st.sampled_from([1, 3, 5, 7])),
        groups=groups,
        mask_noise=draw(st.sampled_from([0.0, 0.01, 1.0])),
        input_dropout=share(draw),
        residual=draw(st.booleans()),
        projection_layers=draw(st.sampled_from([1, 2])),
        projection_ratio=draw(st.sampled_from([0.5, 2.0])),
        projection_init=draw(st.sampled_from(["torch", "bert"])),
    )


def optimizers(draw: st.DrawFn) -> dict[str, Any]:
    values: dict[str, Any] = {"lr": draw(st.floats(1e-6, HIGHEST_LEARNING_RATE)), "weight_decay": share(draw, 0.3)}
    name = draw(st.sampled_from(["AdamW", "Adam", "NAdam", "RAdam", "Adamax", "SGD", "RMSprop", "Adagrad", "Adadelta"]))
    if name in ("AdamW", "Adam", "NAdam", "RAdam", "Adamax"):
        values["betas"] = [0.9, draw(st.sampled_from([0.95, 0.98, 0.999]))]
    if name in ("SGD", "RMSprop"):
        values["momentum"] = share(draw, 0.9)
    return part("torch.optim", name, **values)


def schedules(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(["WarmupCosine", "WarmupLinear", "TriStage"]))
    warmup = draw(st.floats(0, 0.5))
    if name == "TriStage":
        hold = draw(st.floats(0, 0.5))
        values = {"hold": hold, "decay": 1 - warmup - hold, "start_factor": share(draw), "end_factor": 0.05}
    elif name == "WarmupCosine":
        warmup = draw(st.sampled_from([warmup, 1, 2]))
        values = {"start_factor": share(draw), "end_factor": share(draw)}
    else:
        values = {}
    return part("d2v.training.schedules", name, warmup=warmup, **values)


@st.composite
def recipes(draw: st.DrawFn, folder: Path) -> dict[str, Any]:
    """A whole recipe of three steps on the data in ``folder``; nothing of it contradicts anything else."""
    medium = draw(st.sampled_from(list(MEDIA)))
    trunk = draw(trunks())
    drops = draw(st.booleans())
    front: dict[str, Any] = {"masked_input": "drop" if drops else "replace", "prenet_depth": draw(st.integers(0, 2))}
    if medium == "vision":
        data, masking = vision(draw, front)
    elif medium == "speech":
        data, masking = speech(draw, front, trunk["width"])
    else:
        data, masking = text(draw, front, folder)
    start = draw(st.floats(0, 0.999))
    parts = ["feature_extractor"]
    if medium != "vision":
        parts += ["input_norm"]
    model = {
        "student": {"front": {"class_path": MEDIA[medium][0], "init_args": front}, "trunk": trunk},
        "masking": masking,
        "num_masks": draw(st.integers(1, 4)),
        "targets": part(
            "d2v.model.targets",
            "TopKTargets",
            top_k=draw(st.integers(1, trunk["depth"])),
            source=draw(st.sampled_from(["ffn", "end"])),
            layer_norm=draw(st.sampled_from(["layer", "instance", None])),
            mean_norm=draw(st.sampled_from(["layer", "instance", None])),
        ),
        "head": heads(draw, medium, drops),
        "loss": part(
            "d2v.model.losses",
            "RegressionLoss",
            kind=draw(st.sampled_from(["mse", "smooth_l1"])),
            beta=draw(st.sampled_from([0.1, 1.0, 4.0])),
            reduction=draw(st.sampled_from(["mean", "sum", "scaled_sum"])),
        ),
        "cls_loss": None,
        "shared_with_teacher": draw(st.lists(st.sampled_from(parts), unique=True)),
        "ema": {
            "start": start,
            "end": draw(st.floats(start, 0.9999)),
            "anneal": draw(st.sampled_from([0, 0.5, 2, 1000])),
        },
        "optimizer": optimizers(draw),
        "schedule": schedules(draw),
        "weight_decay_on": draw(st.sampled_from(["matrices", "beit", "all"])),
    }
    if front.get("num_cls") and draw(st.booleans()):
        model["cls_loss"] = part("d2v.model.losses", "ClsLoss", weight=0.01, rows=draw(st.integers(1, 64)))
    trainer = {
        "accelerator": "cpu",
        "max_steps": 3,
        "max_epochs": -1,
        "precision": draw(st.sampled_from(["32-true", "bf16-mixed"])),
        "gradient_clip_val": draw(st.sampled_from([None, 1.0])),
        "log_every_n_steps": 1,
        "limit_val_batches": draw(st.sampled_from([0, 1, 1.0])),
        "num_sanity_val_steps": draw(st.sampled_from([0, 1])),
        "enable_progress_bar": False,
    }
    if draw(st.booleans()):
        trainer["accumulate_grad_batches"] = draw(st.integers(1, 3))
    elif draw(st.booleans()):
        data["global_batch_size"] = round(data["batch_size"] * draw(st.integers(1, 3)), 3)
    data.update(root=str(folder / medium), num_workers=0)
    return {
        "seed_everything": draw(st.integers(0, 2**32 - 1)),
        "model": part("d2v.training.module", "Pretraining", **model),
        "data": {"class_path": MEDIA[medium][1], "init_args": data},
        "trainer": trainer,
        "validate_every": draw(st.sampled_from([None, 0.5, 2])),
        "checkpoint": {"every_n_train_steps": draw(st.sampled_from([1, 2, 0.5])), "keep": draw(st.integers(-1, 2))},
    }


def make_data(folder: Path) -> None:
    """A dozen samples of each medium."""
    draw = np.random.default_rng(0)
    for number in range(12):
        for medium in MEDIA:
            (folder / medium).mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (20 + number, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "vision" / f"{number}.png")
        sound = draw.normal(0, 0.1, 10_000 + 1_000 * number)
        soundfile.write(folder / "speech" / f"{number}.wav", sound, 16_000)
    words = "the cat sat on a mat and the dog ran over a hill with one big red ball in the sun"
    documents = [" ".join(draw.choice(words.split(), draw.integers(5, 40))) for _ in range(200)]
    (folder / "text").mkdir(exist_ok=True)
    (folder / "text" / "raw.txt").write_text("\n\n".join(documents))


def failure(recipe: dict[str, Any], folder: Path) -> str:
    """What is wrong about three steps of this recipe; nothing: the empty string."""
    config, runs = folder / "recipe.yaml", folder / "runs"
    config.write_text(json.dumps(recipe))  # which is YAML, too
    shutil.rmtree(runs, ignore_errors=True)
    for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).handlers = []
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = main(["fit", "--config", str(config), "--trainer.default_root_dir", str(runs), "--run_name", "run"])
    if code:
        return f"exit code {code}: {output.getvalue()[-700:]}"
    with (runs / "run" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    losses = [float(row["train/loss"]) for row in rows]
    steps = [row["step"] for row in rows]
    if len(losses) != 3 or not all(map(math.isfinite, losses)):
        return f"losses {losses} of steps {steps}"
    return ""


def failures(folder: Path, examples: int, seed: int) -> list[tuple[str, str]]:
    """What was wrong, with the recipe, of so many."""
    make_data(folder)
    found: list[tuple[str, str]] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(recipes(folder))
    def train(recipe: dict[str, Any]) -> None:
        if text := failure(recipe, folder):
            found.append((text, json.dumps(recipe)))

    train()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.chdir(sys.argv[1])
    sys.argv, (place, count, number) = ["d2v"], sys.argv[1:]
    print(json.dumps(failures(Path(place), int(count), int(number))))

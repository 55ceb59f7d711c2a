"""Is bf16 with norms and residuals in bf16 (ours) as accurate as with norms in fp32 (as autocast does on a GPU)?

    python benchmarks/bf16_norms.py FOLDER --vision CIFAR10 --speech LIBRISPEECH --text imdb/raw.txt

On the small recipes of `learn/` and real data, three seeds. How far loss and gradients of one batch are from those of
fp32 with the same weights, masks and samples: with first weights, and for pictures after training in fp32. Then a short
training of the pictures three times, with fp32, bf16 with norms in fp32, bf16 with norms in bf16, and its probe.

A CPU without bf16 instructions takes ten times as long for a product of bf16 matrices. Here it computes in fp32 and
rounds the result: what a GPU does, which multiplies bf16 numbers exactly and adds them up in fp32.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import d2v
from d2v.configs import find_config
from d2v.nn.layer_norm import LayerNorm
from d2v.training.callbacks.run_plan import RunPlan
from d2v.types import by_encoder

RECIPES = {
    "vision": "learn/vision_cifar10.yaml",
    "speech": "learn/speech_mini_librispeech.yaml",
    "text": "learn/text_imdb.yaml",
}
MODES = ("fp32", "norms in fp32", "norms in bf16")
SEEDS = (1, 2, 3)
BATCHES = 4
aten = torch.ops.aten
PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution, aten.convolution_backward}


class ProductsInFp32(TorchDispatchMode):
    """Products of bf16 numbers in fp32, rounded to bf16."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket not in PRODUCTS or args[0].dtype != torch.bfloat16:
            return func(*args, **(kwargs or {}))
        wide = [arg.float() if isinstance(arg, Tensor) else arg for arg in args]
        result = func(*wide, **(kwargs or {}))
        if isinstance(result, Tensor):
            return result.bfloat16()
        return tuple(part if part is None else part.bfloat16() for part in result)


def norm_in_fp32(norm: LayerNorm, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps)


@contextmanager
def mode_of(mode: str) -> Iterator[None]:
    ours = LayerNorm.forward
    if mode == "norms in fp32":
        LayerNorm.forward = norm_in_fp32  # type: ignore[method-assign]
    try:
        with ProductsInFp32():
            yield
    finally:
        LayerNorm.forward = ours  # type: ignore[method-assign]


class Deviations(L.Callback):
    """Of loss and gradients from those of fp32, of the first batches; nothing is trained."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES[1:]}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> int:
        exact = step(pl_module.method, batch, batch_idx, "fp32")
        for mode, found in self.found.items():
            loss, gradient = step(pl_module.method, batch, batch_idx, mode)
            found.append((abs(loss / exact[0] - 1), float((gradient - exact[1]).norm() / exact[1].norm())))
        trainer.should_stop = batch_idx == BATCHES - 1
        return -1 if trainer.should_stop else None  # type: ignore[return-value]


def step(method: torch.nn.Module, batch: Any, number: int, mode: str) -> tuple[float, Tensor]:
    """Loss and gradients, fp32."""
    torch.manual_seed(number)
    method.zero_grad()
    with mode_of(mode):
        with torch.autocast("cpu", torch.bfloat16, enabled=mode != "fp32"):
            loss = method(by_encoder(batch), number)[""].loss
        loss.backward()
    gradients = [each.grad.flatten().clone() for each in method.parameters() if each.grad is not None]
    method.zero_grad()
    return float(loss), torch.cat(gradients)


def deviations(recipe: str, root: Path, seed: int, weights: Path | None) -> dict[str, list[float]]:
    """Means over the batches, for each mode of the loss and of the gradients."""
    changes: dict[str, Any] = {"seed_everything": seed, "model.optimizer.lr": 1e-12}
    if weights is not None:
        changes["model.init_from"] = str(weights)
    module = d2v.from_recipe(recipe, **changes)
    section = yaml.safe_load(find_config(recipe).read_text())["data"]
    package, _, name = section["class_path"].rpartition(".")
    data = getattr(import_module(package), name)(**section["init_args"] | {"root": str(root)})
    measured = Deviations()
    trainer = L.Trainer(
        max_steps=BATCHES + 1, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, limit_val_batches=0, callbacks=[RunPlan(), measured],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    means = {}
    for mode, found in measured.found.items():
        means[mode] = [statistics.mean(each) for each in zip(*found, strict=True)]
    return means


def trained(root: Path, run: Path, seed: int, mode: str, steps: int) -> dict[str, float]:
    """Loss of the last quarter of a short training, and how well its features classify."""
    precision = "32-true" if mode == "fp32" else "bf16-mixed"
    if not (run / "metrics.csv").exists():
        changes = {
            "seed_everything": seed,
            "precision": precision,
            "accelerator": "cpu",
            "log_every_n_steps": 5,
            "batch_size": 32,
        }
        with mode_of(mode):
            d2v.pretrain(root, run, RECIPES["vision"], max_steps=steps, **changes)
    lines = (run / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("train/loss")
    losses = [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]]
    row = d2v.probe(run, data={"root": str(root)}, max_samples=4000, untrained=False).rows[0]
    last = losses[-max(1, len(losses) // 4) :]
    return {"loss": statistics.mean(last), "linear": row["linear_top1"], "knn": row["knn_top1"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name in RECIPES:
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for medium, recipe in RECIPES.items():
        found[f"{medium}, first weights"] = [deviations(recipe, getattr(options, medium), seed, None) for seed in SEEDS]
        show(found, f"{medium}, first weights")
    for mode in MODES:
        found[mode] = []
    for seed in SEEDS:
        for mode in MODES:
            run = options.folder / f"{mode.replace(' ', '_')}_{seed}"
            found[mode].append(trained(options.vision, run, seed, mode, options.steps))
            print(mode, seed, found[mode][-1], flush=True)
            (options.folder / "bf16_norms.json").write_text(json.dumps(found, indent=1) + "\n")
    name = f"vision, after {options.steps} steps"
    found[name] = []
    for seed in SEEDS:
        found[name].append(deviations(RECIPES["vision"], options.vision, seed, options.folder / f"fp32_{seed}"))
    show(found, name)
    for mode in MODES:
        for each in ("loss", "linear", "knn"):
            values = [row[each] for row in found[mode]]
            apart = [row[each] - exact[each] for row, exact in zip(found[mode], found["fp32"], strict=True)]
            print(f"{mode:<14} {each:<7} {np.round(values, 4)}, from fp32 {np.round(apart, 4)}")
    (options.folder / "bf16_norms.json").write_text(json.dumps(found, indent=1) + "\n")


def show(found: dict[str, Any], name: str) -> None:
    for mode in MODES[1:]:
        for number, what in enumerate(("loss", "gradients")):
            values = [row[mode][number] for row in found[name]]
            print(
                f"{name}, {mode}: {what} off by {statistics.mean(values):.2e} ({min(values):.2e} to {max(values):.2e})",
                flush=True,
            )


if __name__ == "__main__":
    main()

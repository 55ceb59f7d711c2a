"""Tiny pretraining runs, shared by the tests of this folder. Run as a script, it makes runs on two processes:

python tiny_runs.py '[{"output": "FILE", "kind": "2.0", "data": {"batch_size": 4, ...}}, ...]'
"""

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script
from encoders import vision_encoder
from torch import Tensor

from d2v.data.broken_samples import SkippedSamples
from d2v.data.data_module import PretrainingDataModule, Split
from d2v.data.samples import SampleDataset
from d2v.model.heads import ConvDecoder2d, LinearHead
from d2v.model.losses import ClsLoss, RegressionLoss
from d2v.model.masking import BlockMasking, InverseBlockMasking
from d2v.model.targets import TopKTargets
from d2v.training.module import Data2VecModule, Pretraining
from d2v.training.schedules import EMADecay, WarmupCosine


class Pictures(SampleDataset):
    """Smooth random pictures, made anew each time, with augmentation noise from the global generator."""

    noise = 0.1

    def load(self, index: int) -> tuple[Tensor, int | None]:
        generator = torch.Generator().manual_seed(index)
        coarse = torch.randn(1, 3, 3, 3, generator=generator)
        picture = torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")[0]
        return picture + self.noise * torch.randn(3, 16, 16), index % 3


class PictureModule(PretrainingDataModule):
    unit = "images"
    class_names = ("a", "b", "c")  # type: ignore[assignment]

    def __init__(self, num_samples: int = 32, batch_size: int = 8, global_batch_size: int | None = None) -> None:
        super().__init__("", batch_size, global_batch_size, num_workers=0, seed=3, max_skipped_fraction=0.0)
        self.num_samples = num_samples

    def train_dataset(self) -> SampleDataset:
        return Pictures(self.num_samples, self.seed, SkippedSamples(str, self.num_samples, 0.0))

    def eval_dataset(self, split: Split) -> SampleDataset | None:
        return self.train_dataset()


def make_module(kind: str = "2.0", random: bool = False, **changes: Any) -> Data2VecModule:
    """A method of about 10,000 parameters; ``random``: with dropout, stochastic depth and decoder noise."""
    torch.manual_seed(0)
    noise = {"dropout": 0.1, "attention_dropout": 0.1, "drop_path": 0.3} if random else {}
    # Without a bias of the keys, whose gradient is zero but for rounding, which Adam would blow up.
    common = dict(image_size=16, patch_size=4, width=16, depth=2, num_heads=2, key_bias=False, **noise)
    parts: dict[str, Any]
    if kind == "2.0":
        parts = {
            "student": vision_encoder(**common, prenet_depth=1),
            "masking": InverseBlockMasking(0.7, 2),
            "head": lambda width: ConvDecoder2d(width, 16, 2, 3, 2, mask_noise=0.1 if random else 0.0),
            "loss": RegressionLoss(),
            "targets": TopKTargets(2, "ffn", "instance", "layer"),
            "cls_loss": ClsLoss(),
            "num_masks": 2,
        }
    else:
        parts = {
            "student": vision_encoder(
                **common,
                masked_input="replace",
                positions=None,
                relative_bias="shared",
                norm_first=True,
                layer_scale=0.1,
            ),
            "masking": BlockMasking(8, (4, 4), 2),
            "head": LinearHead,
            "loss": RegressionLoss("smooth_l1", 2.0, "mean"),
            "targets": TopKTargets(2, "end", "layer", "layer"),
        }
    settings: dict[str, Any] = {
        "ema": EMADecay(0.9, 0.99, 30),
        "optimizer": lambda groups: torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.05),
        "schedule": WarmupCosine(5),
        "seed": 1,
    }
    return Pretraining(**{**parts, **settings, **changes})


def make_trainer(folder: Path | str, **changes: Any) -> L.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": -1,
        "max_steps": 20,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "use_distributed_sampler": False,
        "gradient_clip_val": 4.0,
        "default_root_dir": str(folder),
    }
    return L.Trainer(**{**settings, **changes})


def weights(module: Data2VecModule) -> dict[str, Tensor]:
    """All of the student, teacher and head."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


class SaveWeights(L.Callback):
    """Each process writes its own, and what it has logged about the last step."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.save(weights(pl_module), f"{self.path}.{trainer.global_rank}")
        torch.save(trainer.callback_metrics, f"{self.path}.metrics.{trainer.global_rank}")


class BreakLoss(L.Callback):
    """Of one step on one of the processes; each process writes how many updates it has skipped."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3 and trainer.global_rank == 1:
            batch.inputs.fill_(float("nan"))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.save(pl_module.skipped_updates, f"{self.path}.skipped.{trainer.global_rank}")


def run_two_processes(output: str, data: dict[str, Any], kind: str, broken: bool = False) -> None:
    # Forked from a process that has imported everything and run nothing: imports take longer than the run.
    callbacks: list[L.Callback] = [SaveWeights(output)]
    if broken:
        callbacks.append(BreakLoss(output))
    trainer = make_trainer(Path(output).parent, devices=2, strategy="ddp_fork", callbacks=callbacks)
    trainer.fit(make_module(kind), datamodule=PictureModule(**data))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in json.loads(sys.argv[1]):
        run_two_processes(**job)

"""Tones as letters, and tiny modules, shared by the tests of this folder. Run as a script: a run on two processes:

python toy.py '[{"output": "FILE", "data": {...}, "module": {...}}]'
"""

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script
from encoders import speech_encoder
from torch import Tensor

from d2v.commands.predictions import Table
from d2v.data.alphabet import Alphabet
from d2v.data.broken_samples import SkippedSamples
from d2v.data.data_module import PretrainingDataModule, Split
from d2v.data.samples import SampleDataset
from d2v.finetuning.augmentation import TokenMasks
from d2v.finetuning.classifier import Classifier
from d2v.finetuning.ctc import CTCModule
from d2v.model.encoder import Encoder
from d2v.training.schedules import TriStage
from d2v.types import Batch

RATE = 16_000
TONES = {"|": 0.0, "a": 500.0, "b": 1100.0, "c": 2300.0}
LETTER = 1600  # samples of a letter: a tenth of a second, five frames
EXTRACTOR = ((16, 10, 5), (16, 3, 2), (16, 3, 2), (16, 3, 2), (16, 3, 2), (16, 2, 2), (16, 2, 2))


def melody(text: str, noise: float = 0.05) -> Tensor:
    """A tone a letter and a pause a boundary; noise from the global generator."""
    time = torch.arange(LETTER) / RATE
    window = torch.hann_window(LETTER)
    wave = torch.cat([torch.sin(2 * torch.pi * TONES[letter] * time) * window for letter in text])
    return F.layer_norm(wave + noise * torch.randn(len(wave)), wave.shape)


def text_of(index: int) -> str:
    """Two words of one to three letters."""
    generator = torch.Generator().manual_seed(index)
    words = []
    for _ in range(2):
        length = int(torch.randint(1, 4, (), generator=generator))
        words.append("".join("abc"[int(i)] for i in torch.randint(3, (length,), generator=generator)))
    return "|".join(words)


class Melodies(SampleDataset):
    def __init__(self, indices: range, labels: str, alphabet: Alphabet, noise: float) -> None:
        super().__init__(len(indices), 3, SkippedSamples(str, len(indices), 0.0))
        self._indices, self._labels, self._alphabet, self._noise = indices, labels, alphabet, noise

    def load(self, index: int) -> tuple[Tensor, int | Tensor | None]:
        text = text_of(self._indices[index])
        wave = melody(text, self._noise)
        if self._labels == "transcript":
            return wave, torch.tensor(self._alphabet.encode(text.replace("|", " ")))
        if self._labels == "class":
            return wave, "abc".index(text[0])
        if self._labels == "multi":
            return wave, torch.tensor([float(letter in text.split("|")[0]) for letter in "abc"])
        return wave, None


class MelodyModule(PretrainingDataModule):
    """Batches count clips here, for simplicity."""

    unit = "audio_seconds"
    pads = True

    def __init__(
        self,
        num_samples: int = 64,
        batch_size: int = 8,
        global_batch_size: int | None = None,
        labels: str = "transcript",
        symbols: str = "|abc",
        noise: float = 0.05,
    ) -> None:
        super().__init__("", batch_size, global_batch_size, num_workers=0, seed=3, max_skipped_fraction=0.0)
        self.num_samples, self.labels, self.noise = num_samples, labels, noise
        self.letters = Alphabet(["<blank>", *symbols])

    @property
    def alphabet(self) -> Alphabet | None:
        return self.letters if self.labels == "transcript" else None

    @property
    def class_names(self) -> tuple[str, ...]:
        return ("a", "b", "c") if self.labels in ("class", "multi") else ()

    def transcript(self, sample_id: int) -> str | None:
        return text_of(10_000 + sample_id).replace("|", " ")

    def train_dataset(self) -> SampleDataset:
        return Melodies(range(self.num_samples), self.labels, self.letters, self.noise)

    def eval_dataset(self, split: Split) -> SampleDataset | None:
        return Melodies(range(10_000, 10_016), self.labels, self.letters, self.noise)


def make_encoder(**changes: Any) -> Encoder:
    settings: dict[str, Any] = {
        "width": 32, "depth": 2, "num_heads": 2, "extractor": EXTRACTOR, "position_layers": 1, "position_kernel": 5,
        "position_groups": 4,
    }  # fmt: skip
    torch.manual_seed(0)
    return speech_encoder(**{**settings, **changes})


def make_module(kind: str = "ctc", lr: float = 3e-3, **changes: Any) -> CTCModule | Classifier:
    if "masks" in changes and isinstance(changes["masks"], dict):
        changes["masks"] = TokenMasks(**changes["masks"])
    settings: dict[str, Any] = {
        "optimizer": lambda groups: torch.optim.Adam(groups, lr=lr, betas=(0.9, 0.98), eps=1e-8),
        "schedule": TriStage(0.1, 0.4, 0.5, end_factor=0.05),
        "seed": 1,
    }
    if "checkpoint" not in changes and "encoder" not in changes:
        settings["encoder"] = make_encoder(**changes.pop("encoder_args", {}))
    return {"ctc": CTCModule, "classifier": Classifier}[kind](**{**settings, **changes})


def make_trainer(folder: Path | str, **changes: Any) -> L.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "max_epochs": -1, "max_steps": 10, "logger": False,
        "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
        "num_sanity_val_steps": 0, "limit_val_batches": 0, "use_distributed_sampler": False,
        "default_root_dir": str(folder),
    }  # fmt: skip
    return L.Trainer(**{**settings, **changes})


class Seen(L.Callback):
    """Records samples and losses."""

    def __init__(self) -> None:
        self.samples: list[list[tuple[int, int]]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.samples.append(list(zip(batch.epochs.tolist(), batch.sample_ids.tolist(), strict=True)))
        self.losses.append(float(outputs["loss"]))


def weights(module: L.LightningModule) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(module: L.LightningModule, before: dict[str, Tensor]) -> set[str]:
    """Names of weights that have moved; what was not there before is left out."""
    return {
        name for name, value in module.state_dict().items() if name in before and not torch.equal(value, before[name])
    }


class SaveWeights(L.Callback):
    """Each process writes its own."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save(weights(pl_module), f"{self.path}.{trainer.global_rank}")


def predict_in_two_processes(output: str) -> None:
    module = make_module()
    module.set_names(("<blank>", "|", "a", "b", "c"))
    module._trained = True
    trainer = make_trainer(
        Path(output).parent, devices=2, strategy="ddp_fork", callbacks=[Table(Path(output))], inference_mode=False
    )
    trainer.predict(module, datamodule=MelodyModule(labels="none", batch_size=6), return_predictions=False)


def run_two_processes(output: str, data: dict[str, Any], module: dict[str, Any], kind: str = "ctc", steps: int = 6):
    """Forked from a process that has imported everything and run nothing: imports take longer than the run."""
    trainer = make_trainer(
        Path(output).parent, devices=2, strategy="ddp_fork", max_steps=steps, callbacks=[SaveWeights(output)],
        limit_val_batches=1.0, check_val_every_n_epoch=None, val_check_interval=3,
    )  # fmt: skip
    trainer.fit(make_module(kind, **module), datamodule=MelodyModule(**data))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in json.loads(sys.argv[1]):
        predict_in_two_processes(**job) if len(job) == 1 else run_two_processes(**job)

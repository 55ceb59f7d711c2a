"""Each clip, text and masked token weighs the same in an update, however the lengths divide into micro-batches.

Run as a script, it makes runs on two processes: python test_sample_weights.py FOLDER
"""

import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script
from encoders import speech_encoder
from tiny_runs import PictureModule, make_module, make_trainer
from torch import Tensor

from d2v.data.alphabet import Alphabet
from d2v.data.broken_samples import SkippedSamples
from d2v.data.data_module import PretrainingDataModule, Split
from d2v.data.samples import Sample, SampleDataset, collate_samples
from d2v.finetuning.classifier import Classifier
from d2v.finetuning.ctc import CTCModule
from d2v.model.encoder import Encoder
from d2v.model.heads import ConvDecoder1d, LinearHead
from d2v.model.masking import Masking, RandomSpanMasking, SpanMasking
from d2v.model.targets import TopKTargets
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.types import Batch, OptimizerStep

RANKS, ACCUMULATED = 2, 4
EXTRACTOR = ((8, 4, 4), (8, 3, 2))
KINDS = ("ctc", "classifier", "1.0", "2.0")


def lengths_like_librispeech(count: int, rate: int, seed: int = 0) -> np.ndarray:
    """Most clips of 12 to 16 seconds, and a tail from 2 to 35."""
    generator = np.random.default_rng(seed)
    seconds = np.where(
        generator.random(count) < 0.6, generator.normal(14.5, 1.2, count), generator.uniform(2, 17, count)
    )
    seconds[generator.random(count) < 0.02] = generator.uniform(17, 35)
    return (seconds.clip(2, 35) * rate).astype(np.int64)


class Clips(SampleDataset):
    """Noise; a letter for every 120 values, or a class."""

    def __init__(self, lengths: np.ndarray, labels: str) -> None:
        super().__init__(len(lengths), 3, SkippedSamples(str, len(lengths), 0.0))
        self._lengths, self._labels = lengths, labels

    @property
    def lengths(self) -> np.ndarray:
        return self._lengths

    def load(self, index: int) -> tuple[Tensor, int | Tensor | None]:
        generator = torch.Generator().manual_seed(index)
        wave = torch.randn(int(self._lengths[index]), generator=generator)
        if self._labels == "letters":
            return wave, torch.randint(1, 4, (len(wave) // 120,), generator=generator)
        return wave, index % 3


class ClipModule(PretrainingDataModule):
    """Batches in seconds of 50 values."""

    unit = "audio_seconds"
    values_per_unit = 50
    pads = True
    class_names = ("a", "b", "c")  # type: ignore[assignment]
    alphabet = Alphabet(["<blank>", *"abc"])

    def __init__(self, labels: str = "class", count: int = 3000, batch_size: float = 100, **settings: Any) -> None:
        super().__init__("", batch_size, num_workers=0, seed=8, **settings)
        self.data = Clips(lengths_like_librispeech(count, self.values_per_unit), labels)

    def train_dataset(self) -> SampleDataset:
        return self.data

    def eval_dataset(self, split: Split) -> SampleDataset | None:
        return self.data


def encoder(**changes: Any) -> Encoder:
    torch.manual_seed(0)
    return speech_encoder(
        width=16, depth=2, num_heads=2, extractor=EXTRACTOR, position_layers=1, position_kernel=3, position_groups=2,
        **changes,
    )  # fmt: skip


def module_of(kind: str) -> L.LightningModule:
    """As it trains, without anything random but the masks."""
    optimizer = {"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1)}
    if kind == "1.0":
        return make_module(
            student=encoder(masked_input="replace"), masking=RandomSpanMasking(0.65, 4, 1000), num_masks=1,
            head=LinearHead, targets=TopKTargets(2), cls_loss=None, **optimizer,
        )  # fmt: skip
    if kind == "2.0":
        return make_module(
            student=encoder(), masking=SpanMasking(0.5, 3), num_masks=2, targets=TopKTargets(2), cls_loss=None,
            head=lambda width: ConvDecoder1d(width, 8, 1, 3, 2, mask_noise=0.0), **optimizer,
        )  # fmt: skip
    parts: dict[str, Any] = {**optimizer, "schedule": make_module().schedule, "encoder": encoder(), "seed": 1}
    made = CTCModule(**parts) if kind == "ctc" else Classifier(**parts)
    made.set_names(tuple(ClipModule.alphabet.symbols) if kind == "ctc" else ClipModule.class_names)
    return made


class Updates(L.Callback):
    """Writes of each update the weights before it, its gradients, this rank's micro-batches and their loss."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.made: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        if batch_idx % ACCUMULATED == 0:
            before = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
            self.made.append({"before": before, "samples": [], "loss": 0.0})
        samples = zip(batch.epochs.tolist(), batch.sample_ids.tolist(), strict=True)
        self.made[-1]["samples"].append(list(samples))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        gradients = {name: parameter.grad for name, parameter in pl_module.named_parameters()}
        self.made[-1]["gradients"] = {name: grad.clone() for name, grad in gradients.items() if grad is not None}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.made[-1]["loss"] += float(outputs["loss"])  # divided by the accumulation already

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save(self.made, f"{self.path}.{trainer.global_rank}")


def train(kind: str, output: str, steps: int, **options: Any) -> None:
    path = options.pop("ckpt_path", None)
    trainer = make_trainer(
        Path(output).parent, max_steps=steps, devices=RANKS, strategy="ddp_fork", accumulate_grad_batches=ACCUMULATED,
        gradient_clip_val=None, enable_checkpointing=True,
        callbacks=[Updates(output), RunCheckpoint(dirpath=f"{output}-checkpoints")], **options,
    )  # fmt: skip
    trainer.fit(module_of(kind), datamodule=ClipModule("letters" if kind == "ctc" else "class"), ckpt_path=path)


def all_runs(folder: str) -> None:
    """Recognition is resumed after its first update, and has epochs of six micro-batches: the second has but two."""
    for kind in KINDS:
        train(kind, f"{folder}/{kind}", 1, limit_train_batches=6)
    train("ctc", f"{folder}/resumed", 3, ckpt_path=f"{folder}/ctc-checkpoints/last.ckpt", limit_train_batches=6)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    return folder


def gradients_of_all(kind: str, before: dict[str, Tensor], samples: list[tuple[int, int]]) -> tuple[Any, float]:
    """Of the loss of all samples in one batch: their sum, or that of their masked tokens, over the number of them."""
    module = module_of(kind)
    module.load_state_dict(before)
    data = ClipModule("letters" if kind == "ctc" else "class")
    batch = collate_samples([data.data[key] for key in samples])
    assert batch.step is None
    if kind in ("ctc", "classifier"):
        module._data_alphabet, module._data_classes = data.alphabet, data.class_names
        loss = module.eval().loss(batch)  # nothing is random in this one in training either
    else:
        loss = module.method.train()({"": batch}, module.seed)[""].loss
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    return gradients, float(loss.detach())


@pytest.mark.parametrize(
    ("kind", "run", "number", "batches"),
    [*((kind, kind, 0, 4) for kind in KINDS), ("ctc", "resumed", 0, 2), ("ctc", "resumed", 1, 4)],
)
def test_an_update_is_the_gradient_of_the_loss_of_all_its_samples_at_once(
    runs: Path, kind: str, run: str, number: int, batches: int
) -> None:
    """On two processes of four micro-batches each; the second update of an epoch here has only two."""
    ranks = [torch.load(runs / f"{run}.{rank}", weights_only=True)[number] for rank in range(RANKS)]
    micro_batches = ranks[0]["samples"] + ranks[1]["samples"]
    assert len(micro_batches) == RANKS * batches
    assert len(set(map(len, micro_batches))) > 1, "of equal sizes nothing can be learned"
    expected, loss = gradients_of_all(kind, ranks[0]["before"], list(chain.from_iterable(micro_batches)))
    gradients = ranks[0]["gradients"]
    assert gradients.keys() == expected.keys()
    scale = max(float(value.abs().max()) for value in expected.values())
    difference = max(float((gradients[name] - expected[name]).abs().max()) for name in expected) / scale
    print(f"{run}: {difference:.1e} of the largest gradient {scale:.2g}")
    assert difference < 1e-5
    assert sum(rank["loss"] for rank in ranks) / RANKS == pytest.approx(loss, rel=1e-5)


def micro_batches_of(data: PretrainingDataModule, epochs: int = 2) -> list[list[tuple[list[int], OptimizerStep]]]:
    """The micro-batches of each optimizer step of all ranks: indices, and what a rank is told about its step."""
    steps: dict[int, list[tuple[list[int], OptimizerStep]]] = {}
    empty = collate_samples([Sample(torch.zeros(1), 0, 0, None)])
    for rank in range(RANKS):
        total, current = SimpleNamespace(processed=0), SimpleNamespace(ready=0)
        progress = SimpleNamespace(total=total, current=current)
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            world_size=RANKS, global_rank=rank, accumulate_grad_batches=ACCUMULATED, training=True, num_devices=1,
            fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
        )  # fmt: skip
        data.accumulation, data._train_sampler, data._step_batches = ACCUMULATED, None, range(0)
        data.train_dataloader()
        sampler = data._train_sampler
        data.trainer.num_training_batches = len(sampler)
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            current.ready = 0
            for batch in sampler:
                told = data.on_before_batch_transfer(empty, 0).step
                steps.setdefault(total.processed // ACCUMULATED, []).append(([index for _, index in batch], told))
                total.processed, current.ready = total.processed + 1, current.ready + 1
    return list(steps.values())


def test_each_clip_has_a_weight_of_one() -> None:
    """28,539 clips in batches of 200 seconds; as a mean over micro-batches the weights were 0.29 to 2.0."""
    data = ClipModule(count=28_539, batch_size=200)
    weights, before = [], []
    for step in micro_batches_of(data, epochs=1):
        assert len(step) == RANKS * ACCUMULATED
        number = sum(len(indices) for indices, _ in step)
        for indices, told in step:
            weight = told.weight(len(indices), told.num_samples)
            weights.append(weight / len(indices) / len(step) * number)
            before.append(1 / len(indices) / len(step) * number)
    print(f"weights of clips: {min(weights):.6f} to {max(weights):.6f}, were {min(before):.2f} to {max(before):.2f}")
    assert np.abs(np.array(weights) - 1).max() < 1e-6
    assert min(before) < 0.5
    assert max(before) > 1.5


@pytest.mark.parametrize(
    ("masking", "num_masks", "seconds"),
    [(RandomSpanMasking(0.65, 10, 11_875), 1, 237.5), (SpanMasking(0.5, 5), 8, 62.5)],
)
def test_each_masked_frame_has_a_weight_of_one(masking: Masking, num_masks: int, seconds: float) -> None:
    """As the recipes of 1.0 and 2.0 speech mask."""
    data = ClipModule(count=5_000, batch_size=seconds)
    module = module_of("2.0")
    task = module.method.task
    task.masking, task.num_masks = masking, num_masks
    weights, before = [], []
    for step in micro_batches_of(data, epochs=1)[:8]:
        counts = []
        for indices, told in step:
            frames = module.method.student.front.num_tokens(data.data.lengths[indices])
            padding = torch.arange(frames.max()) >= torch.tensor(frames)[:, None]
            ids = torch.tensor(indices)
            batch = Batch(torch.empty(len(ids), 1), ids, torch.zeros_like(ids), step=told)
            mask = masking(batch, (int(frames.max()),), num_masks, 0, padding)
            counts.append((int(mask.scored.sum()), float(task.token_weight(module.method.student, batch, mask))))
        number = sum(count for count, _ in counts)
        weights += [weight / count / len(step) * number for count, weight in counts]
        before += [1 / count / len(step) * number for count, _ in counts]
    print(f"weights of masked frames: deviation {np.std(weights):.1e}, was {np.std(before):.3f}, "
          f"{min(before):.2f} to {max(before):.2f}")  # fmt: skip
    assert np.abs(np.array(weights) - 1).max() < 1e-6
    assert max(before) > 1.03


def test_equal_micro_batches_weigh_exactly_one() -> None:
    for own in (1, 3, 31_415):
        for micro_batches in (1, 3, 7, 49):
            step = OptimizerStep(own * micro_batches, None, micro_batches)
            assert step.weight(own, own * micro_batches) == 1
            assert step.weight(torch.tensor(own), own * micro_batches) == 1


def test_pictures_and_batches_from_elsewhere_weigh_one() -> None:
    data = PictureModule()
    for step in micro_batches_of(data):
        for indices, told in step:
            assert told.lengths is None
            assert told.weight(len(indices), told.num_samples) == 1
    data.trainer.training = False  # validation
    assert data.on_before_batch_transfer(collate_samples([data.train_dataset()[0, 0]]), 0).sample_weight == 1


def test_the_loss_of_a_step_that_an_epoch_cuts_short_is_logged_as_any_other(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 1, "accumulate_grad_batches": 3, "limit_train_batches": 1}
    trainer = make_trainer(tmp_path, log_every_n_steps=1, **options)
    trainer.fit(make_module(), datamodule=PictureModule())
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged["train/loss"] == pytest.approx(logged["train/regression_loss"] + logged["train/cls_loss"], rel=1e-4)


if __name__ == "__main__":
    torch.set_num_threads(1)
    all_runs(sys.argv[1])

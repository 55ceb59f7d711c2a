"""Mixup and CutMix: what timm does, with randomness that has keys."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import vision_encoder
from pictures import write_pictures
from timm.data.mixup import Mixup
from timm.loss import SoftTargetCrossEntropy
from toy import MelodyModule, Seen, changed, make_module, make_trainer, weights

from d2v.errors import UserError
from d2v.finetuning.classifier import Classifier
from d2v.finetuning.mixing import Mixing
from d2v.modalities.vision.data import ImageNetDataModule
from d2v.training.callbacks.checkpoint import RunCheckpoint

BOTH = {"mixup": 0.8, "cutmix": 1.0}


def picture_module(**settings: Any) -> Classifier:
    torch.manual_seed(0)
    encoder = vision_encoder(image_size=16, patch_size=4, width=16, depth=2, num_heads=2, drop_path=0.3, dropout=0.1)
    return make_module("classifier", encoder=encoder, **settings)


def test_the_loss_is_timms() -> None:
    pixels, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    scores = torch.randn(6, 3)
    module = picture_module(label_smoothing=0.1).train()
    ways = set()
    for seed in range(20):
        torch.manual_seed(seed)
        mixed, shares = Mixing(**BOTH, prob=0.8).apply(pixels, labels, 3)
        torch.manual_seed(seed)
        np.random.seed(int(torch.randint(2**32, ())))  # noqa: NPY002
        theirs, targets = Mixup(0.8, 1.0, prob=0.8, label_smoothing=0.1, num_classes=3)(pixels.clone(), labels)
        assert torch.equal(mixed, theirs)
        torch.testing.assert_close(module._loss(scores, shares), SoftTargetCrossEntropy()(scores, targets))
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(6))
        same = (mixed == pixels).all(dim=1)
        ways.add("none" if same.all() else "cutmix" if same.any() else "mixup")
    assert ways == {"none", "cutmix", "mixup"}


def test_it_follows_torch_and_disturbs_nothing() -> None:
    pixels, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    before = pixels.clone()

    def draw(torch_seed: int, other_seed: int) -> tuple[torch.Tensor, float, float]:
        torch.manual_seed(torch_seed)
        random.seed(other_seed)
        np.random.seed(other_seed)  # noqa: NPY002
        mixed, _ = Mixing(**BOTH).apply(pixels, labels, 3)
        return mixed, random.random(), float(np.random.rand())  # noqa: NPY002

    first, second, third = draw(1, 5), draw(1, 6), draw(2, 5)
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], third[0])
    assert first[1:] == third[1:]
    assert first[1:] == (random.Random(5).random(), float(np.random.RandomState(5).rand()))
    assert torch.equal(pixels, before), "a batch is left as it is"


def test_only_training_is_mixed_and_smoothed() -> None:
    module = picture_module(mixing=Mixing(**BOTH), label_smoothing=0.1)
    module.set_names(("a", "b"))
    scores, labels = torch.tensor([[9.0, -9.0]]), torch.tensor([0])
    assert module.eval()._loss(scores, labels) < 1e-6
    assert module.train()._loss(scores, labels) > 0.5


def test_what_cannot_be_mixed_is_refused(tmp_path: Path) -> None:
    module = make_module("classifier", mixing=Mixing(mixup=0.8))
    with pytest.raises(UserError, match=r"model\.mixing: pictures can be mixed, and the inputs are of shape \[8, "):
        make_trainer(tmp_path, max_steps=1).fit(module, datamodule=MelodyModule(labels="class"))
    with pytest.raises(UserError, match=r"a batch of 3 pictures.*set data\.batch_size to an even number"):
        Mixing(mixup=0.8).apply(torch.randn(3, 3, 4, 4), torch.tensor([0, 1, 0]), 2)
    with pytest.raises(UserError, match=r"model\.mixing is for model\.task single"):
        picture_module(mixing=Mixing(mixup=0.8), task="multi")
    for settings, message in (
        ({}, "mixup and cutmix are both 0"),
        ({"mixup": -1.0}, "mixup must be 0"),
        ({"mixup": 1.0, "prob": 1.5}, "prob must lie between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Mixing(**settings)


def test_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    """With everything that is random in the fine-tuning of pictures, and accumulation."""
    root = write_pictures(tmp_path / "pictures", num_train=20)

    def fit(path: Path | None = None, **trainer: Any) -> tuple[Classifier, Seen]:
        seen = Seen()
        data = ImageNetDataModule(
            str(root), batch_size=4, global_batch_size=8, num_workers=0, image_size=16, color_jitter=0.4, seed=3,
            rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5,
        )  # fmt: skip
        module = picture_module(mixing=Mixing(**BOTH), label_smoothing=0.1, layer_decay=0.65)
        trainer["callbacks"] = [seen, *trainer.get("callbacks", [])]
        make_trainer(tmp_path, max_steps=6, **trainer).fit(module, datamodule=data, ckpt_path=path)
        return module, seen

    checkpoint = RunCheckpoint(every_n_train_steps=3, keep=-1, dirpath=str(tmp_path / "checkpoints"))
    straight, first = fit(callbacks=[checkpoint], enable_checkpointing=True)
    for disturb in (lambda: torch.rand(7), random.random, np.random.rand):
        disturb()
    resumed, second = fit(tmp_path / "checkpoints" / "step-3.ckpt")
    assert second.samples == first.samples[6:]
    assert second.losses == first.losses[6:]
    assert not changed(straight, weights(resumed))
    assert len(set(first.losses)) == 12

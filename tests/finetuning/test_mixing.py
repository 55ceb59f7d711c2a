"""Mixup and CutMix, with randomness that has keys."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import vision_encoder
from pictures import write_pictures
from torch.nn.functional import one_hot
from toy import MelodyModule, Seen, changed, make_module, make_trainer, weights

from d2v.errors import UserError
from d2v.finetuning.augmentation import Mixing, hide_bands
from d2v.finetuning.classifier import Classifier
from d2v.modalities.vision.data import ImageNetDataModule
from d2v.modalities.vision.rand_augment import RandAugment
from d2v.training.callbacks.checkpoint import RunCheckpoint

BOTH = {"mixup": 0.8, "cutmix": 1.0}


def picture_module(**settings: Any) -> Classifier:
    torch.manual_seed(0)
    encoder = vision_encoder(image_size=16, patch_size=4, width=16, depth=2, num_heads=2, drop_path=0.3, dropout=0.1)
    return make_module("classifier", encoder=encoder, **settings)


def test_pictures_and_labels_are_mixed_by_the_same_share() -> None:
    pixels, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    others = pixels.roll(1, 0)
    own_class = one_hot(labels, 3).float()
    ways = Counter[str]()
    for seed in range(300):
        torch.manual_seed(seed)
        mixed, shares = Mixing(**BOTH, prob=0.8).apply(pixels, labels, 3)
        share = float(shares[0, 0])  # of the picture itself: no neighbour has its class
        torch.testing.assert_close(shares, share * own_class + (1 - share) * own_class.roll(1, 0))
        from_other = (mixed == others).all(dim=1)
        if torch.equal(mixed, pixels):
            ways["none"] += 1
        elif from_other.any():
            rows, columns = from_other[0].any(dim=1).sum(), from_other[0].any(dim=0).sum()
            assert from_other.sum() == 6 * rows * columns, "a rectangle, the same in all"
            assert 1 - share == pytest.approx(float(rows * columns) / 64)
            assert torch.equal(mixed, torch.where(from_other[:, None], others, pixels))
            ways["cutmix"] += 1
        else:
            torch.testing.assert_close(mixed, share * pixels + (1 - share) * others)
            ways["mixup"] += 1
    # One in five stays as it is, and so does a CutMix whose rectangle is smaller than a pixel.
    assert ways["none"] == pytest.approx(70, abs=25)
    assert ways["mixup"] == pytest.approx(120, abs=25)


def test_the_loss_of_mixed_labels() -> None:
    # 0.7 of its class, 0.3 of the other, smoothed by 0.1: mixup_target and SoftTargetCrossEntropy of timm 1.0.31.
    scores = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0]])
    shares = torch.tensor([[0.7, 0.0, 0.3], [0.3, 0.0, 0.7]])
    module = picture_module(label_smoothing=0.1).train()
    assert float(module._loss(scores, shares)) == pytest.approx(1.7193, abs=1e-4)


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


def test_a_batch_of_any_size_can_be_mixed() -> None:
    for count in (1, 3):
        mixed, shares = Mixing(mixup=0.8).apply(torch.randn(count, 3, 4, 4), torch.tensor([0, 1, 0][:count]), 2)
        assert mixed.shape == (count, 3, 4, 4)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(count))


def test_only_training_is_mixed_and_smoothed() -> None:
    module = picture_module(mixing=Mixing(**BOTH), label_smoothing=0.1)
    module.set_names(("a", "b"))
    scores, labels = torch.tensor([[9.0, -9.0]]), torch.tensor([0])
    assert module.eval()._loss(scores, labels) < 1e-6
    assert module.train()._loss(scores, labels) > 0.5


def test_several_labels_are_mixed_like_their_pictures() -> None:
    pictures = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    labels = torch.tensor([[1.0, 1, 0], [0, 0, 1], [0, 1, 0]])
    torch.manual_seed(0)
    mixed, shares = Mixing(mixup=0.8).apply(pictures, labels, 3)
    kept = 1 - mixed[1, 0, 0, 0]  # of 1 and the 0 before it
    torch.testing.assert_close(shares[1], (1 - kept) * labels[1] + kept * labels[0])
    assert torch.equal(Mixing(mixup=0.8, prob=0.0).apply(pictures, labels, 3)[1], labels)


def test_bands_of_spectrograms_are_hidden() -> None:
    torch.manual_seed(0)
    hidden = hide_bands(torch.ones(200, 1, 40, 20), 0.4) == 0
    frames, bins = hidden.all(dim=3).sum(dim=(1, 2)), hidden.all(dim=2).sum(dim=(1, 2))
    assert (frames.max(), bins.max()) == (15, 7)  # below 40% of 40 and of 20
    assert frames.float().mean().item() == pytest.approx(7.5, abs=1)
    assert bins.float().mean().item() == pytest.approx(3.5, abs=0.5)
    with pytest.raises(UserError, match=r"model\.spec_augment: inputs of shape \[2, 3, 8, 8\] are no spectrograms"):
        hide_bands(torch.ones(2, 3, 8, 8), 0.4)


def test_what_cannot_be_mixed_is_refused(tmp_path: Path) -> None:
    module = make_module("classifier", mixing=Mixing(mixup=0.8))
    with pytest.raises(UserError, match=r"model\.mixing: only pictures and .* not inputs of shape \[8, "):
        make_trainer(tmp_path, max_steps=1).fit(module, datamodule=MelodyModule(labels="class"))
    with pytest.raises(UserError, match=r"model\.mixing is for model\.task single"):
        picture_module(mixing=Mixing(mixup=0.8), task="regression")
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
            augment=RandAugment(), random_erasing=0.5,
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

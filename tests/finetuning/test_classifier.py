"""Classification under Lightning's own loop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import vision_encoder
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from toy import MelodyModule, make_encoder, make_module, make_trainer, weights

from d2v.errors import UserError
from d2v.finetuning.classifier import Classifier
from d2v.nn.task_heads import ClassifierHead, TanhHead
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.types import Batch


def fit(folder: Path, data: dict[str, Any], module: dict[str, Any] | None = None, **trainer: Any):
    made = make_module("classifier", **(module or {}))
    runner = make_trainer(folder, **trainer)
    runner.fit(made, datamodule=MelodyModule(**data))
    return made, runner


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> tuple[Classifier, Path]:
    folder = tmp_path_factory.mktemp("single")
    checkpoint = RunCheckpoint(dirpath=str(folder / "checkpoints"))
    data = {"labels": "class", "num_samples": 128}
    module, _ = fit(folder, data, {"label_smoothing": 0.1, "lr": 5e-3}, max_steps=120, callbacks=[checkpoint],
                    enable_checkpointing=True)  # fmt: skip
    return module, folder


def test_classes_are_learned_and_named(single, tmp_path):
    """The class is the first of up to seven tones."""
    module, _ = single
    trainer = make_trainer(tmp_path, limit_val_batches=None, limit_test_batches=None)
    (metrics,) = trainer.validate(module, datamodule=MelodyModule(labels="class"), verbose=False)
    assert metrics["val/top1"] > 0.6
    assert "val/top5" not in metrics, "there are only three classes"
    outputs: list[Any] = []
    step = module.test_step
    module.test_step = lambda *args: outputs.append(step(*args)) or outputs[-1]  # type: ignore[method-assign]
    (tested,) = trainer.test(module, datamodule=MelodyModule(labels="class"), verbose=False)
    del module.test_step
    rows = [value for batch in outputs for value in batch["rows"].values]
    assert outputs[0]["rows"].columns == ("label", "prediction", "probability")
    right = sum(label == prediction for label, prediction, _ in rows) / len(rows)
    assert right == pytest.approx(tested["test/top1"]) == pytest.approx(metrics["val/top1"])
    (first, *_) = trainer.predict(module, datamodule=MelodyModule(labels="none"))
    assert first["rows"].columns == ("prediction", "probability")
    assert first["rows"].values == [value[1:] for value in outputs[0]["rows"].values]


def test_several_labels_are_learned(tmp_path):
    module, _ = fit(
        tmp_path, {"labels": "multi", "num_samples": 128}, {"task": "multi", "norm": False, "lr": 5e-3}, max_steps=60
    )
    trainer = make_trainer(tmp_path, limit_val_batches=None, limit_test_batches=None)
    (metrics,) = trainer.test(module, datamodule=MelodyModule(labels="multi"), verbose=False)
    assert metrics["test/map"] > 0.85, "by chance about 0.55, the share of first words with a letter"
    (first, *_) = trainer.predict(module, datamodule=MelodyModule(labels="none"))
    assert first["rows"].columns == ("predictions", "probabilities")
    for names, probabilities in first["rows"].values:
        assert set(names.split(",")) <= {"a", "b", "c"}
        chances = [float(p) for p in probabilities.split(",")]
        assert chances == sorted(chances, reverse=True)
        assert all(p > 0.5 for p in chances[1:])


def test_precision_does_not_depend_on_what_shares_a_batch():
    """torchmetrics takes the scores of a batch for probabilities if all of them happen to lie between 0 and 1."""
    module = make_module("classifier", task="multi")
    module.set_names(("a", "b"))
    module._data_classes = module.names
    module.method.head = torch.nn.Identity()
    module._features = lambda batch: batch.inputs  # type: ignore[method-assign]
    module.log = module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    for score, label in ((0.9, 0.0), (1.5, 1.0)):
        batch = Batch(torch.tensor([[score, score]]), torch.zeros(1), torch.zeros(1), torch.tensor([[label, label]]))
        module.validation_step(batch, 0)
    assert float(module.val_metrics.compute()["val/map"]) == 1


def test_padding_changes_nothing(single):
    module, _ = single
    module.eval()
    data = MelodyModule(labels="class")
    samples = [data.train_dataset()[(0, i)] for i in range(4)]
    together = data.collate(samples)
    assert together.padding_mask is not None
    with torch.no_grad():
        alone = [module.head(module._features(data.collate([sample]))) for sample in samples]
        torch.testing.assert_close(module.head(module._features(together)), torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_long_clips_are_pooled_over_chunks(single, monkeypatch):
    module, _ = single
    module.eval()
    data = MelodyModule(labels="class")
    batch = data.collate([data.train_dataset()[(0, i)] for i in range(3)])
    whole = module._features(batch)
    monkeypatch.setattr(module, "chunk_seconds", 0.3)
    monkeypatch.setattr(module, "overlap_seconds", 0.2)
    chunked = module._features(batch)
    assert chunked.shape == whole.shape
    cosine = torch.nn.functional.cosine_similarity(whole, chunked)
    assert cosine.min() > 0.8, "an approximation: each chunk attends to itself alone"


def test_a_checkpoint_keeps_the_names_of_its_classes(single, tmp_path):
    module, folder = single
    file = str(folder / "checkpoints" / "last.ckpt")
    assert torch.load(file, weights_only=True)["d2v"]["classes"] == ["a", "b", "c"]
    trainer = make_trainer(tmp_path, limit_test_batches=None)
    (expected,) = trainer.test(module, datamodule=MelodyModule(labels="class"), verbose=False)

    class Renumbered(MelodyModule):
        """The same clips, whose classes have other numbers."""

        class_names = ("c", "a", "b")  # type: ignore[assignment]

        @staticmethod
        def collate(samples):
            batch = MelodyModule.collate(samples)
            return batch._replace(labels=torch.tensor([1, 2, 0])[batch.labels])

    fresh = make_module("classifier", label_smoothing=0.1)
    (other,) = trainer.test(fresh, datamodule=Renumbered(labels="class"), ckpt_path=file, verbose=False)
    assert other == pytest.approx(expected)

    class Unknown(MelodyModule):
        class_names = ("a", "b", "d")  # type: ignore[assignment]

    with pytest.raises(UserError, match="the checkpoint's head has no class 'd'"):
        trainer.test(make_module("classifier"), datamodule=Unknown(labels="class"), ckpt_path=file, verbose=False)
    with pytest.raises(UserError, match=r"data: its classes, 3 \(a b d\), differ from the checkpoint's, 3 \(a b c\)"):
        make_trainer(tmp_path, max_steps=99).fit(
            make_module("classifier"), datamodule=Unknown(labels="class"), ckpt_path=file
        )


def test_it_knows_no_modality(tmp_path):
    """Pictures, by mean and by CLS."""

    class Pictures(LightningDataModule):
        class_names = ("dark", "bright")
        unit, pads, skipped = "images", False, 0

        def train_dataloader(self):
            generator = torch.Generator().manual_seed(0)
            labels = torch.arange(8) % 2
            pixels = torch.randn(8, 3, 16, 16, generator=generator) * 0.1 + labels[:, None, None, None]
            batches = [Batch(pixels, torch.arange(8), torch.zeros(8, dtype=torch.long), labels)] * 30
            return DataLoader(batches, batch_size=None)

        val_dataloader = train_dataloader

        def count_units(self, batch):
            return len(batch.inputs)

    for pool in ("mean", "cls"):
        encoder = vision_encoder(image_size=16, patch_size=4, width=16, depth=2, num_heads=2)
        module = make_module("classifier", encoder=encoder, pool=pool, lr=3e-3)
        trainer = make_trainer(tmp_path, max_steps=30, limit_val_batches=None)
        trainer.fit(module, datamodule=Pictures())
        (metrics,) = trainer.validate(module, datamodule=Pictures(), verbose=False)
        assert metrics["val/top1"] == 1


def test_the_whole_encoder_can_stay_frozen(tmp_path):
    module = make_module("classifier", freeze=[""])
    before = weights(module)
    make_trainer(tmp_path, max_steps=2).fit(module, datamodule=MelodyModule(labels="class"))
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())


def test_bad_input_is_named(tmp_path):
    def message(pattern: str, data: dict[str, Any] | None = None, **module: Any) -> None:
        with pytest.raises(UserError, match=pattern):
            fit(tmp_path, data or {"labels": "class"}, module)

    message(r"model\.pool is cls: this encoder has no CLS token", pool="cls")
    message(r"model\.label_smoothing is 1\.0", label_smoothing=1.0)
    message(r"model\.label_smoothing is for model\.task single", label_smoothing=0.1, task="multi")
    message(r"model\.overlap_seconds is 5\.0", chunk_seconds=2.0)
    message(r"data: no labels, so there is nothing to fit", {"labels": "none"})
    message(r"model\.task is single, but the data have several labels a sample", {"labels": "multi"})
    message(r"model\.task is multi, but the data have one class a sample", task="multi")
    assert make_encoder().front.num_cls == 0


class Vectors(LightningDataModule):
    """Pictures of one brightness each, which is the score; their class is whether it is above zero."""

    unit, pads, skipped = "images", False, 0

    def __init__(self, regression: bool) -> None:
        super().__init__()
        self.regression = regression
        self.class_names = () if regression else ("dark", "bright")

    def train_dataloader(self):
        scores = torch.linspace(-1, 1, 16)
        pixels = scores[:, None, None, None].expand(16, 3, 16, 16).contiguous()
        labels = scores if self.regression else (scores > 0).long()
        batch = Batch(pixels, torch.arange(16), torch.zeros(16, dtype=torch.long), labels)
        return DataLoader([batch] * 60, batch_size=None)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader

    def count_units(self, batch):
        return len(batch.inputs)


def picture_module(**settings: Any) -> Classifier:
    encoder = vision_encoder(image_size=16, patch_size=4, width=16, depth=1, num_heads=2)
    return make_module("classifier", encoder=encoder, norm=False, lr=3e-3, **settings)


def test_scores_are_learned(tmp_path):
    module = picture_module(task="regression", head="tanh", pool="cls")
    trainer = make_trainer(tmp_path, max_steps=60, limit_val_batches=1, limit_test_batches=1, limit_predict_batches=1)
    trainer.fit(module, datamodule=Vectors(regression=True))
    assert module.names == ("score",)
    outputs: list[Any] = []
    step = module.test_step
    module.test_step = lambda *args: outputs.append(step(*args)) or outputs[-1]  # type: ignore[method-assign]
    (metrics,) = trainer.test(module, datamodule=Vectors(regression=True), verbose=False)
    assert set(metrics) == {"test/loss", "test/pearson", "test/spearman"}
    assert metrics["test/pearson"] > 0.9
    assert metrics["test/spearman"] > 0.9
    rows = outputs[0]["rows"]
    assert rows.columns == ("label", "prediction")
    predicted = torch.tensor([float(value[1]) for value in rows.values])
    labels = torch.tensor([float(value[0]) for value in rows.values])
    assert float((predicted - labels).square().mean()) == pytest.approx(metrics["test/loss"], abs=1e-3)
    (found,) = trainer.predict(module, datamodule=Vectors(regression=True))
    assert found["rows"].columns == ("prediction",)


def test_scores_are_divided_to_be_learned(tmp_path):
    module = picture_module(task="regression", score_scale=5.0)
    module.set_names(("score",))
    module._data_classes = module.names
    module.method.head = torch.nn.Identity()
    module._features = lambda batch: batch.inputs  # type: ignore[method-assign]
    scores, labels = torch.tensor([[0.5], [0.9]]), torch.tensor([2.0, 4.5])
    assert float(module._loss(scores, labels)) == pytest.approx(0.1**2 / 2)
    batch = Batch(scores, torch.arange(2), torch.zeros(2, dtype=torch.long), None)
    assert module.predict_step(batch, 0)["rows"].values == [("2.5000",), ("4.5000",)]
    for value, task, pattern in ((0.0, "regression", r"is 0\.0: it must"), (5.0, "single", "is for model.task regr")):
        with pytest.raises(UserError, match=rf"model\.score_scale {pattern}"):
            picture_module(task=task, score_scale=value)


@pytest.mark.parametrize("kind", [ClassifierHead, TanhHead])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_scores_are_fp32_under_autocast(kind, weights):
    head = kind(16, 3, False, 0.0).to(weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = head(torch.randn(8, 16).to(weights))
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float()), "they are not rounded to bf16"


def test_metrics_by_name(tmp_path):
    names = ["accuracy", "f1", "matthews"]
    module = picture_module(metrics=names, head="tanh")
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=1)
    trainer.fit(module, datamodule=Vectors(regression=False))
    scores = torch.tensor([[0.0, 2.0], [0.0, 1.0], [3.0, 0.0], [0.5, 0.6], [0.9, 0.1]])
    module.val_metrics.reset()
    module.val_metrics.update(scores, torch.tensor([1, 0, 0, 1, 1]))
    found = {name: float(value) for name, value in module.val_metrics.compute().items()}
    # 2 true positives, 1 false positive, 1 false negative, 1 true negative.
    assert found["val/accuracy"] == pytest.approx(3 / 5)
    assert found["val/f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["val/matthews"] == pytest.approx((2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5)


def test_scores_and_classes_are_told_apart(tmp_path):
    def message(pattern: str, regression: bool, **settings: Any) -> None:
        with pytest.raises(UserError, match=pattern):
            make_trainer(tmp_path, max_steps=1).fit(picture_module(**settings), datamodule=Vectors(regression))

    message(r"model\.task is single, but the data have scores; set it to regression", True)
    message(r"model\.task is regression, but the data have classes; set it to single", False, task="regression")
    message(r"model\.metrics: there is no pearson for model\.task single; there are top1", False, metrics=["pearson"])
    message(r"model\.label_smoothing is for model\.task single", True, task="regression", label_smoothing=0.1)

"""The image DataModule: batches, determinism, broken files, probes, what is refused."""

import io
import logging
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from encoders import vision_encoder
from PIL import Image

from d2v.data.normalisation import IMAGENET
from d2v.errors import UserError
from d2v.modalities.vision.data import ImageNetDataModule
from d2v.modalities.vision.decoding import Picture
from d2v.modalities.vision.rand_augment import RandAugment
from d2v.modalities.vision.transforms import EvalTransform, TrainTransform, random_crop_box
from d2v.types import Batch


def write_tree(root: Path, num_train: int = 12, num_val: int = 6) -> Path:
    generator = np.random.default_rng(0)
    for split, count in (("train", num_train), ("val", num_val)):
        for number in range(count):
            folder = root / split / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            (folder / f"{number:03d}.png").write_bytes(buffer.getvalue())
    return root


def module(root: Path, **changes: Any) -> ImageNetDataModule:
    return ImageNetDataModule(**{"root": str(root), "batch_size": 4, "num_workers": 0, "image_size": 16, **changes})


def trainer(world_size: int = 1, rank: int = 0, distributed_sampler: bool = False) -> Any:
    return SimpleNamespace(
        lightning_module=None,
        state=SimpleNamespace(fn=None),
        world_size=world_size,
        global_rank=rank,
        num_devices=world_size,
        accumulate_grad_batches=1,
        _accelerator_connector=SimpleNamespace(use_distributed_sampler=distributed_sampler),
        fit_loop=SimpleNamespace(
            epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(total=SimpleNamespace(processed=0)))
        ),
    )


def batches(data: ImageNetDataModule) -> list[Batch]:
    data.setup("fit")
    return list(data.train_dataloader())


def test_a_batch_holds_bytes_and_labels(tmp_path: Path) -> None:
    data = module(write_tree(tmp_path), image_size=(16, 8))
    loaded = batches(data)
    assert len(loaded) == 3
    first = loaded[0]
    assert first.inputs.shape == (4, 3, 16, 8)
    assert first.inputs.dtype == torch.uint8
    assert first.inputs.is_contiguous(memory_format=torch.channels_last), "dense, and the colours of a pixel together"
    assert sorted(torch.cat([batch.sample_ids for batch in loaded]).tolist()) == list(range(12))
    labels = torch.cat([batch.labels for batch in loaded if batch.labels is not None])
    assert labels.bincount().tolist() == [6, 6]


def test_samples_depend_on_seed_epoch_and_id_alone(tmp_path: Path) -> None:
    write_tree(tmp_path)
    by_id = []
    for workers, batch_size in ((0, 4), (2, 4), (1, 3)):
        torch.manual_seed(workers)
        loaded = batches(module(tmp_path, num_workers=workers, batch_size=batch_size, color_jitter=0.4))
        inputs, ids = (torch.cat([getattr(batch, name) for batch in loaded]) for name in ("inputs", "sample_ids"))
        by_id.append(inputs[ids.argsort()])
    assert torch.equal(by_id[0], by_id[1])
    assert torch.equal(by_id[0], by_id[2])
    dataset = module(tmp_path).train_dataset()
    assert not torch.equal(dataset[(0, 3)].inputs, dataset[(1, 3)].inputs)
    assert not torch.equal(dataset[(0, 3)].inputs, module(tmp_path, seed=1).train_dataset()[(0, 3)].inputs)


def test_ranks_share_the_work_and_the_trainer_learns_the_accumulation(tmp_path: Path) -> None:
    write_tree(tmp_path)
    seen, val = [], []
    for rank in range(2):
        data = module(tmp_path, batch_size=2, global_batch_size=12)
        data.trainer = trainer(world_size=2, rank=rank)
        seen += [index for batch in batches(data) for index in batch.sample_ids.tolist()]
        val += [index for batch in cast(list[Batch], data.val_dataloader()) for index in batch.sample_ids.tolist()]
        assert data.trainer.accumulate_grad_batches == 3
    assert sorted(seen) == list(range(12))
    assert sorted(val) == list(range(6))


def test_lightnings_own_sampler_is_refused(tmp_path: Path) -> None:
    data = module(write_tree(tmp_path))
    data.trainer = trainer(world_size=2, distributed_sampler=True)
    with pytest.raises(UserError, match=r"trainer\.use_distributed_sampler"):
        data.setup("fit")


def test_a_cached_picture_is_read_once_shrunk_and_cropped_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path)
    dataset = module(tmp_path, cache=True, image_size=10, min_crop_scale=1.0).train_dataset()
    first = dataset[(0, 3)].inputs
    monkeypatch.setattr("d2v.modalities.vision.data.decode_image", None)  # a second reading would fail
    assert torch.equal(dataset[(0, 3)].inputs, first)
    assert not torch.equal(dataset[(1, 3)].inputs, first)  # another epoch: it may be flipped or cut otherwise
    [image] = dataset._cache.values()  # type: ignore[attr-defined]
    assert image.size == (12, 10)


def test_what_is_small_enough_is_cached_as_it_is(tmp_path: Path) -> None:
    write_tree(tmp_path)
    plain, cached = module(tmp_path).train_dataset(), module(tmp_path, cache=True).train_dataset()
    for _ in range(2):
        assert torch.equal(plain[(0, 5)].inputs, cached[(0, 5)].inputs)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_replaced_counted_and_named_once(
    tmp_path: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path)
    logging.getLogger("d2v").addHandler(handler := logging.StreamHandler())
    broken = tmp_path / "train/a/004.png"
    broken.write_bytes(broken.read_bytes()[:300])
    (tmp_path / "train/b/003.png").write_bytes(b"")
    data = module(tmp_path, num_workers=workers)
    first, second = batches(data), list(data.train_dataloader())
    logging.getLogger("d2v").removeHandler(handler)
    assert [len(batch.inputs) for batch in first] == [4, 4, 4]
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, second, strict=True))
    assert data.skipped == 2
    printed = capfd.readouterr().err
    if workers == 0:
        assert printed.count(f"data: skipped {broken}: ") == 1
        assert "003.png: the file is empty" in printed
    inputs = torch.cat([batch.inputs for batch in first])
    assert len(inputs.flatten(1).unique(dim=0)) == 12  # the replacement is augmented in its own way
    data.on_before_batch_transfer(first[0], 0)  # two are not many enough to stop


def test_too_many_broken_files_stop_the_run(tmp_path: Path) -> None:
    write_tree(tmp_path, num_train=40)
    for path in sorted((tmp_path / "train").glob("*/*"))[:12]:
        path.write_bytes(b"oops")
    data = module(tmp_path, num_workers=1)
    loaded = batches(data)
    with pytest.raises(UserError, match=r"12 of 40 files .*data.max_skipped_fraction = 0.01(.|\n)*train/a/000.png"):
        data.on_before_batch_transfer(loaded[0], 0)
    tolerant = module(tmp_path, max_skipped_fraction=0.5)
    tolerant.on_before_batch_transfer(batches(tolerant)[0], 0)


def test_a_data_set_without_a_readable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"text")
    with pytest.raises(UserError, match=r"1 of 1 files(.|\n)*a\.jpg"):
        batches(module(tmp_path, batch_size=1))


def test_probe_loaders_are_fixed_and_cover_both_splits(tmp_path: Path) -> None:
    data = module(write_tree(tmp_path))
    train, val = data.probe_dataloaders()
    assert [index for batch in train for index in batch.sample_ids.tolist()] == list(range(12))
    assert [label for batch in val for label in batch.labels.tolist()] == [0, 0, 0, 1, 1, 1]
    assert torch.equal(next(iter(train)).inputs, next(iter(data.probe_dataloaders()[0])).inputs)
    few = data.probe_dataloaders(max_samples=4)
    assert few[1] is not None
    assert [batch.sample_ids.tolist() for batch in few[0]] == [[0, 3, 6, 9]]
    assert [batch.labels.tolist() for batch in few[1]] == [[0, 0, 1, 1]]
    assert (data.num_classes, data.class_names) == (2, ("a", "b"))
    assert len(data.test_dataloader()) == len(data.predict_dataloader()) == 2


def test_pictures_have_the_size_of_the_encoder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = vision_encoder(image_size=(24, 16), patch_size=8, width=8, depth=1, num_heads=1)
    data = module(write_tree(tmp_path / "own"), image_size=None)
    assert next(iter(data.train_dataloader())).inputs.shape == (4, 3, 224, 224)  # without an encoder
    data.adapt_to(encoder)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.probe_dataloaders()[0]):
        assert next(iter(loader)).inputs.shape == (4, 3, 24, 16)
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        stated = module(tmp_path / "own", image_size=16)
        stated.adapt_to(encoder)
    assert next(iter(stated.train_dataloader())).inputs.shape == (4, 3, 16, 16)
    assert "data.image_size is 16 x 16, and the encoder is made for 24 x 16 pixels" in caplog.text


def test_a_tenth_is_held_out_where_there_is_no_validation_split(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        data = module(write_tree(tmp_path / "without", 20, 0), val_fraction=None)
        assert [len(part) for part in data.splits.values()] == [18, 2]
        assert "2 of 20 images are held out for validation" in caplog.text
        assert module(tmp_path / "without").val_dataloader() == []
    assert "there is no validation split, so nothing is validated; --data.val_fraction 0.1" in caplog.text
    data = module(write_tree(tmp_path / "with", 20, 6), val_fraction=None)
    assert [len(part) for part in data.splits.values()] == [20, 6]


def test_probing_needs_labels(tmp_path: Path) -> None:
    write_tree(tmp_path / "both", num_val=0)
    data = module(tmp_path / "both")
    assert data.val_dataloader() == []
    assert data.probe_dataloaders()[1] is None  # the probe holds out a part of the others
    held_out = module(tmp_path / "both", val_fraction=0.25)
    train, val = held_out.probe_dataloaders()
    assert val is not None
    assert (len(train.dataset), len(val.dataset)) == (9, 3)  # type: ignore[arg-type]
    names = [pictures.name(index) for pictures in held_out.splits.values() for index in range(len(pictures))]
    assert len(set(names)) == 12
    with pytest.raises(UserError, match="no labels"):
        module(tmp_path / "both/train/a").probe_dataloaders()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", 0),
        ("min_crop_scale", 0.0),
        ("flip", 2.0),
        ("color_jitter", -1.0),
        ("val_fraction", 1.0),
        ("label_fraction", 0.0),
        ("max_samples", 1),
        ("random_erasing", -0.5),
        ("eval_crop", 1.5),
        ("num_workers", -1),
        ("max_skipped_fraction", 3.0),
    ],
)
def test_senseless_values_name_their_key(tmp_path: Path, key: str, value: float) -> None:
    with pytest.raises(UserError, match=f"data.{key} is {value}"):
        module(tmp_path, **{key: value})


def test_a_wrong_root_is_reported_at_setup(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        module(tmp_path / "nowhere").setup("validate")


def test_random_crops_are_distributed_as_in_torchvision() -> None:
    from torchvision.transforms.v2 import RandomResizedCrop  # type: ignore[import-untyped]

    torch.manual_seed(0)
    theirs = RandomResizedCrop(16, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3))
    image = Image.new("RGB", (60, 40))
    boxes = torch.tensor([random_crop_box(60, 40, 0.2) for _ in range(4000)]).float()
    ours = torch.stack([boxes[:, 0], boxes[:, 1], boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]], dim=1)
    params = [theirs.make_params([image]) for _ in range(4000)]
    expected = torch.tensor([[p["left"], p["top"], p["width"], p["height"]] for p in params]).float()
    assert boxes.min() >= 0
    assert (boxes.amax(dim=0) <= torch.tensor([60, 40, 60, 40])).all()
    assert torch.allclose(ours.mean(dim=0), expected.mean(dim=0), atol=0.5)
    assert torch.allclose(ours.std(dim=0), expected.std(dim=0), atol=0.5)
    assert random_crop_box(1000, 10, 1.0) == (493, 0, 506, 10)  # nothing fits: the central 4:3


def test_transforms_agree_with_torchvision() -> None:
    from torchvision.transforms import v2  # type: ignore[import-untyped]

    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    reference = v2.Compose(
        [
            v2.Resize(round(28 * 256 / 224), interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(28),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    assert torch.allclose(IMAGENET.apply(EvalTransform((28, 28))(Picture(image))), reference(image), atol=1e-5)
    whole = TrainTransform((50, 40), min_crop_scale=1.0, flip=1.0, color_jitter=0.0)
    assert whole(Picture(image)).shape == (3, 50, 40)


def augmented(root: Path, **changes: Any) -> ImageNetDataModule:
    return module(root, **{"augment": RandAugment(), "random_erasing": 0.5, **changes})


def test_augmentation_for_finetuning_has_keys_and_disturbs_nothing(tmp_path: Path) -> None:
    write_tree(tmp_path)
    by_id = []
    for workers, batch_size in ((0, 4), (2, 3)):
        random.seed(workers)
        np.random.seed(workers)  # noqa: NPY002
        loaded = batches(augmented(tmp_path, num_workers=workers, batch_size=batch_size))
        assert random.random() == random.Random(workers).random()
        assert np.random.rand() == np.random.RandomState(workers).rand()  # noqa: NPY002
        inputs, ids = (torch.cat([getattr(batch, name) for batch in loaded]) for name in ("inputs", "sample_ids"))
        by_id.append(inputs[ids.argsort()])
    assert torch.equal(*by_id)
    plain = torch.stack([module(tmp_path).train_dataset()[(0, index)].inputs for index in range(12)])
    moved = (by_id[0] != plain).flatten(1).any(dim=1)
    assert int(moved.sum()) >= 6, "half are erased, three quarters augmented"


def test_erased_pixels_are_noise() -> None:
    transform = TrainTransform((32, 32), min_crop_scale=1.0, flip=0.0, color_jitter=0.0, random_erasing=1.0)
    pixels = transform(Picture(Image.new("RGB", (32, 32))))
    erased = (pixels != pixels[:, :1, :1].clone()).all(dim=0)
    if erased[0, 0]:
        erased = ~erased
    assert 0.01 < erased.float().mean() < 0.4
    assert pixels[:, erased].std() == pytest.approx(1.0, abs=0.4)


def test_the_crop_of_evaluation() -> None:
    gradient = Image.linear_gradient("L").resize((64, 64)).convert("RGB")  # darkest above
    whole, usual = (EvalTransform((32, 32), crop)(Picture(gradient))[0] / 255 for crop in (1.0, None))
    assert whole[0].mean() < 0.02
    assert usual[0].mean() == pytest.approx(1 / 16, abs=0.02), "an eighth of the height is cut off, half of it above"
    assert EvalTransform((384, 384)).margin == 1
    assert EvalTransform((224, 224)).margin == 256 / 224


def named(data: ImageNetDataModule) -> list[str]:
    return [Path(name).name for name in data.splits["train"].names()]


def test_a_share_of_the_labels_is_balanced_and_the_same_for_all_seeds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tree(tmp_path, num_train=40)
    for number in range(4, 40, 4):
        (tmp_path / f"train/a/{number:03d}.png").unlink()  # 11 of class a, 20 of b
    with caplog.at_level(logging.INFO):
        chosen = named(module(tmp_path, label_fraction=0.5))
    drawn = "drawn by a fixed seed for data.label_fraction: 8 of a, 8 of b"
    assert f"data: 16 of 31 training images, {drawn}" in caplog.text
    assert chosen == named(module(tmp_path, max_samples=16))
    assert chosen == named(module(tmp_path, label_fraction=0.5, seed=7))
    assert set(named(module(tmp_path, label_fraction=0.2))) < set(chosen), "smaller shares lie in larger ones"
    data = module(tmp_path, label_fraction=0.01)
    assert [batch.labels.bincount().tolist() for batch in data.probe_dataloaders()[0]] == [[1, 1]]
    assert data.class_names == ("a", "b")
    assert len(data.splits["val"]) == 6, "validation keeps all"
    held_out = module(tmp_path / "train", label_fraction=0.5, val_fraction=0.2)
    assert not set(named(held_out)) & {Path(name).name for name in held_out.splits["val"].names()}
    with pytest.raises(UserError, match=r"data\.label_fraction is 0\.5: the training images have no labels"):
        module(tmp_path / "train/a", label_fraction=0.5).setup()


def test_a_file_names_the_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tree(tmp_path)
    file = tmp_path / "list.txt"
    file.write_text("003.png\n\ntrain/a/004.png\n007.png\n")
    with caplog.at_level(logging.INFO):
        assert named(module(tmp_path, subset=str(file))) == ["004.png", "003.png", "007.png"]
    assert f"data: 3 of 12 training images, named by {file}: 1 of a, 2 of b" in caplog.text
    for content, message in (
        (
            "003.png\n999.png\n998.png\n",
            r"2 of its 3 names are not among the 12 .* like 000\.png; the first: 998\.png, ",
        ),
        ("\n", "it names nothing"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=rf"data\.subset .*list\.txt: {message}"):
            module(tmp_path, subset=str(file)).setup()
    (tmp_path / "train/b/004.png").write_bytes((tmp_path / "train/a/004.png").read_bytes())
    file.write_text("b/004.png\n/elsewhere/train/a/002.png\n")
    told_apart = module(tmp_path, subset=str(file)).splits["train"].names()
    assert [name[-9:] for name in told_apart] == ["a/002.png", "b/004.png"]
    file.write_text("004.png")
    with pytest.warns(UserWarning, match=r"names 1 images, and 2 training images have such names: all are taken"):
        module(tmp_path, subset=str(file)).setup()
    with pytest.raises(UserError, match=r"data\.subset nowhere\.txt: not readable"):
        module(tmp_path, subset="nowhere.txt").setup()
    with pytest.raises(UserError, match=r"data\.subset is a\.txt and data\.label_fraction 0\.1"):
        module(tmp_path, subset="a.txt", label_fraction=0.1)

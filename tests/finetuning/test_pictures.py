"""The shipped configs of picture classification through the command line, made tiny."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import D2V
from encoders import save_checkpoint, vision_encoder
from pictures import CLASSES, write_pictures

from d2v.configs import SHIPPED

TINY = {"image_size": 16, "patch_size": 4, "width": 16, "depth": 2, "num_heads": 2}
KINDS: dict[str, dict[str, Any]] = {
    "finetune/imagenet.yaml": {"masked_input": "replace", "positions": None, "relative_bias": "shared",
                               "norm_first": True, "layer_scale": 0.1, "key_bias": False},
    "finetune/imagenet_v2.yaml": {"prenet_depth": 1},
}  # fmt: skip


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


def pretrained(folder: Path, **settings: Any) -> Path:
    """What a run of pretraining leaves, as far as the student goes."""
    torch.manual_seed(0)
    encoder = vision_encoder(**{**TINY, **settings})
    return save_checkpoint(encoder, folder / "pretrained.ckpt")


def overlay(folder: Path, root: Path, **data: Any) -> Path:
    content = {
        "data": {"init_args": {"root": str(root), "image_size": 16, "batch_size": 4, "global_batch_size": 8,
                               "num_workers": 0, **data}},
        "trainer": {"accelerator": "cpu", "max_steps": 3, "precision": "32", "val_check_interval": 6,
                    "enable_progress_bar": False, "log_every_n_steps": 1},
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return folder / "tiny.yaml"


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_all_configs_are_here() -> None:
    assert set(KINDS) == {f"finetune/{path.name}" for path in (SHIPPED / "finetune").glob("imagenet*.yaml")}


@pytest.mark.parametrize("name", KINDS)
def test_every_config_runs(d2v: D2V, root: Path, tmp_path: Path, name: str) -> None:
    checkpoint = pretrained(tmp_path, **KINDS[name])
    recipe = ["--config", name, "--config", overlay(tmp_path, root), "--model.checkpoint", checkpoint]
    code, _, err = d2v("fit", *recipe, "--run_name", "a")
    assert code == 0, err
    assert re.search(r"validation: loss [\d.]+, top1 [\d.]+%", err)
    assert not [line for line in err.splitlines() if "Warning" in line], err
    state = torch.load(tmp_path / "runs/a/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert ("method.student.trunk.output_norm.weight" in state) is False

    # At another size, by the size of the data alone and by resized tables.
    again = ["--config", "runs/a/config.yaml", "--ckpt_path", "runs/a"]
    code, _, err = d2v("test", *again, "--data.image_size", 24, "--data.eval_crop", 1.0)
    assert code == 0, err
    rows = table(tmp_path / "runs/a-test/predictions.tsv")
    assert [Path(row["file"]).name for row in rows] == [f"val_{number:03d}.png" for number in (0, 3, 1, 4, 2, 5)]
    assert [row["label"] for row in rows] == [name for name in CLASSES for _ in range(2)]

    code, _, err = d2v("predict", *again, "--data.root", root / "train" / "red")
    assert code == 0, err
    predicted = table(tmp_path / "runs/a-predict/predictions.tsv")
    assert {Path(row["file"]) for row in predicted} == set((root / "train" / "red").iterdir())
    assert {row["prediction"] for row in predicted} <= set(CLASSES)

    code, _, err = d2v("fit", *recipe, "--model.encoder_changes.image_size", 24, "--data.image_size", 24,
                       "--trainer.max_steps", 1)  # fmt: skip
    assert code == 0, err


@pytest.mark.parametrize("name", ["imagenet_large", "imagenet_v2_large", "imagenet_v2_huge"])
def test_every_size_runs_as_published(d2v: D2V, root: Path, tmp_path: Path, name: str) -> None:
    base = name.rpartition("_")[0]
    checkpoint = pretrained(tmp_path, **KINDS[f"finetune/{base}.yaml"])
    stack = ["--config", f"finetune/{base}.yaml", "--config", f"finetune/sizes/{name}.yaml"]
    stack += ["--config", f"finetune/as_published_{base}.yaml", "--config", overlay(tmp_path, root)]
    code, _, err = d2v("fit", *stack, "--model.checkpoint", checkpoint)
    assert code == 0, err
    assert not [line for line in err.splitlines() if "Warning" in line], err


def test_few_labels_and_whom_predict_reads(d2v: D2V, root: Path, tmp_path: Path) -> None:
    checkpoint = pretrained(tmp_path)
    recipe = ["--config", "finetune/imagenet_v2.yaml", "--config", overlay(tmp_path, root, label_fraction=0.25)]
    options = ["--model.checkpoint", checkpoint, "--run_name", "a", "--trainer.max_steps", 1]
    code, _, err = d2v("fit", *recipe, *options, "--trainer.limit_val_batches", 0)
    assert code == 0, err
    drawn = "drawn by a fixed seed for data.label_fraction: 2 of blue, 2 of green, 2 of red"
    assert f"data: 6 of 24 training images, {drawn}" in err
    again = ["--config", "runs/a/config.yaml", "--ckpt_path", "runs/a"]
    code, _, err = d2v("predict", *again, "--data.root", root / "train")
    assert code == 0, err
    assert "24 rows" in err


def test_scratch_has_the_network_of_the_pretraining() -> None:
    """The overlay for comparison and the config it goes over, against the recipe of the checkpoint."""
    learn, tuned, scratch = (
        yaml.safe_load((SHIPPED / "learn" / name).read_text())
        for name in ("vision_cifar10.yaml", "vision_cifar10_finetune.yaml", "vision_untrained.yaml")
    )
    changes = tuned["model"]["init_args"]["encoder_changes"]
    pretrained = learn["model"]["init_args"]["student"]
    assert scratch["model"]["init_args"]["encoder"] == {**pretrained, "trunk": {**pretrained["trunk"], **changes}}
    assert tuned["data"]["init_args"]["image_size"] == learn["data"]["init_args"]["image_size"]


def test_own_pictures_at_the_size_of_the_encoder_and_the_best_checkpoint(d2v: D2V, root: Path, tmp_path: Path) -> None:
    """Nothing but folders of classes: a part is held out, and what is best on it is what the run stands for."""
    checkpoint = pretrained(tmp_path)
    options = [
        "--trainer.accelerator",
        "cpu",
        "--data.batch_size",
        "4",
        "--trainer.enable_progress_bar",
        "false",
        "--data.num_workers",
        "0",
    ]
    recipe = ["--config", "finetune/pictures.yaml", "--model.checkpoint", checkpoint, "--data.root", root / "train"]
    code, _, err = d2v(
        "fit", *recipe, *options, "--trainer.max_epochs", "2", "--run_name", "a", "--data.batch_size", "4"
    )
    assert code == 0, err
    assert "are held out for validation" in err
    assert re.search(r"done: runs/a: checkpoints/last.ckpt, checkpoints/best.ckpt \(val/top1 [\d.]+ at step \d+\)", err)
    again = ["--config", "runs/a/config.yaml", "--ckpt_path", "runs/a", *options]
    code, _, err = d2v("predict", *again, "--data.root", root / "val")
    assert code == 0, err
    assert "--ckpt_path runs/a: takes runs/a/checkpoints/best.ckpt" in err
    code, out, err = d2v("probe", "--checkpoint", "runs/a", "--data.root", root, "--device", "cpu")
    assert code == 0, err
    assert "runs/a  random" in out

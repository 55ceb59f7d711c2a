"""A classifier beside an imported encoder: tested and used as it is, and trained on."""

import argparse
import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from command_line import D2V
from pictures import CLASSES, write_pictures

import d2v as package
from d2v.checkpoints.folder import read_config
from d2v.checkpoints.head_files import FILE, load_head
from d2v.commands import import_
from d2v.data.normalisation import normalised
from d2v.errors import UserError

WIDTH = 16


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


def imported(folder: Path, outputs: int = 3, classes: str | None = None) -> Path:
    """What `d2v import` makes of a classifier of data2vec_vision, of random weights."""
    torch.manual_seed(0)
    state: dict[str, Any] = {
        "cls_token": (1, 1, WIDTH), "patch_embed.proj.weight": (WIDTH, 3, 4, 4), "patch_embed.proj.bias": (WIDTH,),
        "rel_pos_bias.relative_position_bias_table": (52, 2), "fc_norm.weight": (WIDTH,), "fc_norm.bias": (WIDTH,),
        "head.weight": (outputs, WIDTH), "head.bias": (outputs,),
    }  # fmt: skip
    for name, shape in {
        "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "norm2.weight": (WIDTH,), "norm2.bias": (WIDTH,),
        "attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.q_bias": (WIDTH,), "attn.v_bias": (WIDTH,),
        "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,), "mlp.fc1.weight": (32, WIDTH),
        "mlp.fc1.bias": (32,), "mlp.fc2.weight": (WIDTH, 32), "mlp.fc2.bias": (WIDTH,),
    }.items():  # fmt: skip
        state[f"blocks.0.{name}"] = shape
    torch.save({"model": {name: torch.randn(shape) for name, shape in state.items()}}, folder / "beit.pth")
    names = None
    if classes is not None:
        names = folder / "classes.txt"
        names.write_text(classes)
    source, output = folder / "beit.pth", folder / "beit"
    import_.run(argparse.Namespace(source=source, output=output, dict=None, classes=names, tokenizer=None))
    return output


@pytest.fixture
def recipe(root: Path, tmp_path: Path) -> list[str]:
    content = {
        "model": {"init_args": {"checkpoint": "beit"}},
        "data": {"init_args": {"root": str(root), "image_size": 16, "batch_size": 4, "global_batch_size": None,
                               "num_workers": 0}},
        "trainer": {"accelerator": "cpu", "max_steps": 1, "precision": "32", "enable_progress_bar": False},
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    return ["--config", "finetune/imagenet.yaml", "--config", str(tmp_path / "tiny.yaml")]


def predictions(path: Path) -> dict[str, str]:
    with path.open() as file:
        return {Path(row["file"]).name: row["prediction"] for row in csv.DictReader(file, delimiter="\t")}


@pytest.mark.parametrize(
    ("classes", "names"),
    [(None, CLASSES), ("red\n\nblue\ngreen\n", ("red", "blue", "green"))],  # unknown; known, in another order
)
def test_it_is_used_untrained_and_trained_on(
    d2v: D2V, root: Path, recipe: list[str], tmp_path: Path, classes: str | None, names: tuple[str, ...]
) -> None:
    folder = imported(tmp_path, classes=classes)
    code, _, err = d2v("test", *recipe, "--run_name", "untrained")
    assert code == 0, err
    assert "top1" in err
    code, _, err = d2v("predict", *recipe, "--run_name", "untrained")
    assert code == 0, err
    predicted = predictions(tmp_path / "runs/untrained-predict/predictions.tsv")

    head = load_head(folder)
    assert head is not None
    from d2v.modalities.vision.data import ImageNetDataModule

    used = yaml.safe_load((tmp_path / "runs/untrained-predict/config.yaml").read_text())["data"]["init_args"]
    normal = {key: used[key] for key in ("mean", "std", "eval_crop")}
    data = ImageNetDataModule(str(root), batch_size=6, image_size=16, num_workers=0, **normal)
    data.setup("validate")
    pixels = next(iter(data.val_dataloader())).inputs
    encoder = package.load(folder)
    pixels = normalised(pixels, encoder.assets)
    x = F.layer_norm(encoder.embed(pixels), (WIDTH,), head.weights["norm.weight"],
                     head.weights["norm.bias"], 1e-6)  # fmt: skip
    best = F.linear(x, head.weights["proj.weight"], head.weights["proj.bias"]).argmax(dim=1).tolist()
    assert [predicted[f"val_{number:03d}.png"] for number in (0, 3, 1, 4, 2, 5)] == [names[i] for i in best]

    code, _, err = d2v("fit", *recipe, "--run_name", "tuned", "--model.optimizer.lr", "1e-30")
    assert code == 0, err
    assert "starts" not in err
    weights = torch.load(tmp_path / "runs/tuned/checkpoints/last.ckpt", weights_only=True)
    assert tuple(weights["d2v"]["classes"]) == CLASSES
    order = [names.index(name) for name in CLASSES]
    assert torch.equal(weights["state_dict"]["method.head.proj.weight"], head.weights["proj.weight"][order])


@pytest.mark.parametrize(
    ("options", "outputs", "classes", "notice"),
    [
        (["--model.pool", "cls"], 3, None, "its classifier is not taken, because it has model.pool mean"),
        (["--model.head", "tanh", "--model.norm", "false"], 3, None, "it has model.head linear, model.norm true"),
        ([], 4, None, r"it has 4 classes (the data have 3)"),
        ([], 3, "cat\ndog\nhen", "its head writes 3 (cat dog hen); a new one starts"),
    ],
)
def test_one_that_does_not_fit_begins_anew_with_a_notice(
    d2v: D2V, recipe: list[str], tmp_path: Path, options: list[str], outputs: int, classes: str | None, notice: str
) -> None:
    folder = imported(tmp_path, outputs, classes)
    code, _, err = d2v("fit", *recipe, *options, "--run_name", "a")
    assert code == 0, err
    assert notice in err
    weights = torch.load(tmp_path / "runs/a/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    head = load_head(folder)
    assert head is not None
    assert not torch.equal(weights["method.head.proj.weight"], head.weights["proj.weight"])
    code, _, err = d2v("test", *recipe, *options)
    assert code == 2
    assert ("d2v import --classes FILE" if classes else "the head is untrained") in err


def test_names_of_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"classes.txt: names 2 classes, but the classifier has 3 outputs"):
        imported(tmp_path, classes="a\nb\nb\n")
    folder = imported(tmp_path, classes="a\nb\nc\n")
    assert read_config(folder)["head"]["names"] == ["a", "b", "c"]
    assert "classifier (3 classes)" in (folder / "README.md").read_text()
    (folder / FILE).write_bytes(b"nothing")
    with pytest.raises(UserError, match="does not go with"):
        load_head(folder)
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"does not say which model; give one of .*a\.pt"):
        load_head(tmp_path)

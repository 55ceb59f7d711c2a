"""Folders and checkpoints from somewhere else name classes and files: neither may do more than be a model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import classifier, linear_head, make_encoder, run_export, save

import d2v
from d2v.checkpoints.head_files import load_head
from d2v.errors import UserError
from d2v.finetuning.classifier import Classifier
from d2v.training.schedules import WarmupCosine


def edited(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(
    "names",
    [["../../away.txt"], ["/tmp/away.txt"], ["a/b.txt"], [".."], [1], 5, [""], ["model.safetensors"], ["..\\away.txt"]],
)
def test_assets_cannot_lie_elsewhere(names: Any, tmp_path: Path) -> None:
    (tmp_path / "away.txt").write_text("secret")
    folder = run_export(save(tmp_path / "x.ckpt", make_encoder("vision2")), "safetensors", tmp_path / "a" / "b")
    edited(folder, assets=names)
    with pytest.raises(UserError, match=r"config\.json: names the asset"):
        d2v.load(folder)
    with pytest.raises(UserError, match=r"config\.json: names the asset"):
        run_export(folder, "safetensors", tmp_path / "out")


@pytest.mark.parametrize("form", ["safetensors", "torch"])
@pytest.mark.parametrize(
    "assets", [{"../away.txt": "evil"}, {"ok.txt": 3}, {"model.safetensors": "evil"}, {"model.pt2": "evil"}]
)
def test_assets_of_a_checkpoint_cannot_lie_elsewhere(form: str, assets: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "x.ckpt", make_encoder("vision2"), assets=assets)
    with pytest.raises(UserError, match=r"x\.ckpt: .*refused"):
        run_export(path, form, tmp_path / "out" / "model")
    with pytest.raises(UserError, match=r"x\.ckpt: .*refused"):
        d2v.load(path)
    assert not (tmp_path / "out").exists()


def test_no_recipe_builds_what_reads_other_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **more: asked.append(args))
    module = {
        "class_path": "d2v.finetuning.classifier.Classifier",
        "init_args": {"optimizer": None, "schedule": None, "checkpoint": "hf://somebody/model"},
    }
    folder = run_export(save(tmp_path / "x.ckpt", make_encoder("vision2")), "safetensors", tmp_path / "model")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    recipe = {"front": module, "trunk": content["d2v"]["encoders"][""]["recipe"]["trunk"]}
    edited(folder, method={"student": recipe})
    content["d2v"]["encoders"][""]["recipe"] = recipe
    torch.save(content, tmp_path / "y.ckpt")
    for path in (folder, tmp_path / "y.ckpt"):
        with pytest.raises(UserError, match="no part of the method"):
            d2v.load(path)
    head = {"class_path": "d2v.model.heads.LinearHead", "init_args": {}}
    with pytest.raises(UserError, match=r"LinearHead': is not a FrontEnd"):
        d2v.load(edited(folder, method={"student": {**recipe, "front": head}}))
    assert not asked


def test_a_licence_goes_with_what_is_trained_from_it(tmp_path: Path) -> None:
    folder = run_export(save(tmp_path / "x.ckpt", make_encoder("vision2")), "safetensors", tmp_path / "model")
    edited(folder, source={"layout": "somebody's", "licence": "CC-BY-NC 4.0"})
    module = Classifier(optimizer=torch.optim.SGD, schedule=WarmupCosine(0), checkpoint=str(folder))
    module.set_names(["a", "b"])
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    checkpoint |= {"state_dict": module.state_dict(), "global_step": 1}
    torch.save(checkpoint, tmp_path / "tuned.ckpt")
    assert d2v.load(tmp_path / "tuned.ckpt").licence == "CC-BY-NC 4.0"
    card = (run_export(tmp_path / "tuned.ckpt", "safetensors", tmp_path / "tuned") / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in card


def test_a_score_keeps_its_units(tmp_path: Path) -> None:
    head = linear_head(1)
    settings = classifier(["score"], head, "mean", "regression", score_scale=5.0)
    path = save(tmp_path / "x.ckpt", make_encoder("vision2"), head, **settings)
    folder = run_export(path, "safetensors", tmp_path / "model")
    module = Classifier(
        optimizer=torch.optim.SGD, schedule=WarmupCosine(0), checkpoint=str(folder), task="regression", norm=False,
        score_scale=2.0,
    )  # fmt: skip
    stored = load_head(folder)
    assert stored is not None
    given = module.weights_from(stored)
    assert given is not None
    torch.testing.assert_close(given[1]["proj.weight"] * 2.0, head["proj.weight"] * 5.0)
    torch.testing.assert_close(given[1]["proj.bias"] * 2.0, head["proj.bias"] * 5.0)


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    folder = run_export(save(tmp_path / "x.ckpt", make_encoder("vision2")), "safetensors", tmp_path / "model")
    modes = {file.name: file.stat().st_mode for file in folder.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]

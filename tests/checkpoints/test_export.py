"""`d2v export --format safetensors`, and what is refused in any format."""

import filecmp
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from encoders import load_method
from exporting import classifier, linear_head, make_encoder, recogniser, run_export, save

import d2v
from d2v.checkpoints.folder import read_config
from d2v.checkpoints.head_files import load_head
from d2v.checkpoints.load import init_weights
from d2v.checkpoints.recipe import build_method, node
from d2v.errors import UserError

METHOD: dict[str, Any] = {
    "masking": node("d2v.model.masking.InverseBlockMasking", mask_ratio=0.5, block_size=2),
    "targets": node("d2v.model.targets.TopKTargets", top_k=2),
    "head": node("d2v.model.heads.ConvDecoder2d", decoder_width=8, num_layers=1, kernel_size=3, groups=2),
    "loss": node("d2v.model.losses.RegressionLoss"),
    "cls_loss": None,
    "num_masks": 2,
    "shared_with_teacher": [],
}


def run_folder(folder: Path, with_config: bool = True) -> tuple[Path, Any]:
    """A run of pretraining, as the command line leaves it; and its method."""
    encoder = make_encoder("vision2", prenet_depth=0)
    method = build_method({**METHOD, "student": encoder.recipe})
    for parameter in method.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    (folder / "checkpoints").mkdir(parents=True)
    state = {f"method.{name}": value for name, value in method.state_dict().items()}
    entry = {"version": "0", "encoders": {"": {"recipe": encoder.recipe, "assets": {}, "licence": None}}}
    torch.save({"state_dict": state, "global_step": 3, "d2v": entry}, folder / "checkpoints" / "last.ckpt")
    if with_config:
        model = {"class_path": "d2v.training.module.Data2VecModule", "init_args": {**METHOD, "student": encoder.recipe}}
        (folder / "config.yaml").write_text(yaml.safe_dump({"model": model}))
    return folder, method


def assert_same_folder(a: Path, b: Path) -> None:
    names = {path.name for path in a.iterdir()}
    assert names == {path.name for path in b.iterdir()}
    assert filecmp.cmpfiles(a, b, names, shallow=False)[1:] == ([], [])


def test_pretraining_goes_on_from_it(tmp_path: Path) -> None:
    run, method = run_folder(tmp_path / "run")
    folder = run_export(run, "safetensors", tmp_path / "new")
    again = load_method(folder)
    expected = method.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
    assert again.task.num_masks == 2
    fresh = build_method({**METHOD, "student": method.student.recipe})
    assert init_weights(fresh, folder) == []
    assert torch.equal(fresh.task.head.state_dict()["proj.weight"], expected["task.head.proj.weight"])
    x = torch.randn(1, 3, 16, 24)
    for weights, encoder in (("student", method.student), ("teacher", method.teacher.encoder)):
        with torch.no_grad():
            assert torch.equal(d2v.load(folder, weights=weights)(x).tokens, encoder.eval()(x).tokens)  # type: ignore[arg-type]
    assert_same_folder(folder, run_export(folder, "safetensors", tmp_path / "again"))


def test_a_run_without_its_config(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, method = run_folder(tmp_path / "run", with_config=False)
    folder = run_export(run, "safetensors", tmp_path / "new")
    assert "no recipe of the method" in capsys.readouterr().out
    assert init_weights(method, folder) == []
    with pytest.raises(UserError, match="the recipe of the method has no 'masking'"):
        load_method(folder)


def test_fine_tuned_models_keep_their_heads(tmp_path: Path) -> None:
    head = linear_head(3)
    checkpoint = save(tmp_path / "a.ckpt", make_encoder("speech2"), head, **recogniser(["<blank>", "|", "A"]))
    folder = run_export(checkpoint, "safetensors", tmp_path / "ctc")
    found = load_head(folder)
    assert torch.equal(found.weights["proj.weight"], head["proj.weight"])
    assert torch.equal(found.weights["proj.bias"], head["proj.bias"])
    assert found.names == ("<blank>", "|", "A")
    assert_same_folder(folder, run_export(folder, "safetensors", tmp_path / "ctc_again"))

    head = linear_head(1, norm=True, tanh=True)
    settings = classifier(["score"], head, "cls", "regression", score_scale=5.0)
    checkpoint = save(tmp_path / "b.ckpt", make_encoder("text1"), head, assets={"tokenizer.json": "{}"}, **settings)
    folder = run_export(checkpoint, "safetensors", tmp_path / "score")
    found = load_head(folder)
    assert (found.kind, found.pool, found.task, found.names) == ("tanh", "cls", "regression", ("score",))
    assert torch.equal(found.weights["proj.weight"], 5 * head["proj.weight"])  # in the units of the data
    assert torch.equal(found.weights["hidden.weight"], head["hidden.weight"])
    assert d2v.load(folder).assets == {"tokenizer.json": "{}"}
    assert_same_folder(folder, run_export(folder, "safetensors", tmp_path / "score_again"))


def test_import_and_export_is_the_identity(
    tmp_path: Path, make_v2_image: Callable[..., Any], import_content: Callable[..., Path]
) -> None:
    folder = import_content(make_v2_image())
    assert_same_folder(folder, run_export(folder, "safetensors", tmp_path / "again"))
    assert "fairseq" in read_config(tmp_path / "again")["source"]["layout"]


def test_what_is_refused(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "a.ckpt", make_encoder("text1"))
    (tmp_path / "empty").mkdir()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"checkpoint": tmp_path / "none.ckpt"}, "none.ckpt: no such file"),
        ({"checkpoint": tmp_path / "empty"}, "holds neither config.json"),
        ({"output": tmp_path}, "there is something already"),
        ({"output": checkpoint / "below"}, "cannot be written"),
        ({"weights": "teacher"}, "--weights: --format safetensors writes student and teacher"),
        ({"weights": "teacher", "form": "hf"}, "holds no teacher"),
        ({"push": "nobody"}, "--push nobody: give OWNER/NAME"),
    ]
    for changes, message in cases:
        arguments = {"checkpoint": checkpoint, "form": "safetensors", "output": tmp_path / "new", **changes}
        with pytest.raises(UserError, match=message):
            run_export(**arguments)
    foreign = tmp_path / "foreign.pt"
    torch.save({"model": {}}, foreign)
    with pytest.raises(UserError, match=r"foreign\.pt: not recognised \(it holds nothing\)"):
        run_export(foreign, "hf", tmp_path / "new")
    damaged = save(tmp_path / "b.ckpt", make_encoder("text1"), linear_head(3), **recogniser(["<blank>", "|"]))
    with pytest.raises(UserError, match=r"b\.ckpt: its head cannot be read \(proj.weight has the shape"):
        run_export(damaged, "safetensors", tmp_path / "new")
    assert not (tmp_path / "new").exists()

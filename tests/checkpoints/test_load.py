"""`d2v.load` and `model.init_from`: from a checkpoint of ours, a run's folder or an imported folder."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import recipe as encoder_recipe
from safetensors.torch import save_file

import d2v
from d2v.checkpoints.folder import read_config, read_weights, write_folder
from d2v.checkpoints.load import init_weights
from d2v.checkpoints.recipe import build_method, node
from d2v.errors import UserError
from d2v.modalities.vision.front_end import VisionFrontEnd
from d2v.model.data2vec import Data2Vec
from d2v.model.encoder import Encoder

STUDENT = {"image_size": 16, "patch_size": 4, "width": 16, "depth": 2, "num_heads": 2}


def recipe(**student: Any) -> dict[str, Any]:
    head = node("d2v.model.heads.ConvDecoder2d", decoder_width=8, num_layers=1, groups=2)
    if student.get("masked_input") == "replace":
        head = node("d2v.model.heads.LinearHead")
    return {
        "student": encoder_recipe(VisionFrontEnd, **{**STUDENT, **student}),
        "masking": node("d2v.model.masking.InverseBlockMasking", mask_ratio=0.5),
        "targets": node("d2v.model.targets.TopKTargets", top_k=2),
        "head": head,
        "loss": node("d2v.model.losses.RegressionLoss"),
        "cls_loss": None,
        "num_masks": 2,
        "shared_with_teacher": [],
    }


def make(shared: tuple[str, ...] = (), **student: Any) -> Data2Vec:
    """A method whose teacher differs from its student."""
    method = build_method({**recipe(**student), "shared_with_teacher": list(shared)})
    with torch.no_grad():
        for value in method.teacher.parameters():
            value.add_(torch.randn_like(value))
    return method


def save(method: Data2Vec, path: Path) -> Path:
    """What training/module.py and Lightning write, in short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"method.{name}": value for name, value in method.state_dict().items()}
    torch.save({"state_dict": state, "d2v": entry(method.student.recipe), "global_step": 7}, path)
    return path


def entry(recipe: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its only encoder."""
    return {"version": "0.1.0", "encoders": {"": {"recipe": recipe, "assets": {}, "licence": None}}}


def same(encoder: torch.nn.Module, expected: torch.nn.Module) -> bool:
    pairs = zip(encoder.state_dict().items(), expected.state_dict().items(), strict=True)
    return all(name == other and torch.equal(value, wanted) for (name, value), (other, wanted) in pairs)


def test_our_checkpoint(tmp_path: Path) -> None:
    method = make()
    path = save(method, tmp_path / "a.ckpt")
    student, teacher = d2v.load(path), d2v.load(str(path), weights="teacher")
    assert same(student, method.student)
    assert same(teacher, method.teacher.encoder)
    assert not student.training
    assert all(value.requires_grad for value in student.trunk.parameters())
    with pytest.raises(UserError, match="weights='ema'"):
        d2v.load(path, weights="ema")  # type: ignore[arg-type]


def test_a_teacher_borrows_what_it_shares(tmp_path: Path) -> None:
    method = make(shared=("feature_extractor",))
    teacher = d2v.load(save(method, tmp_path / "a.ckpt"), weights="teacher")
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = method.teacher.encoder.encode(method.student.extract(x)).tokens
        torch.testing.assert_close(teacher(x).tokens, expected)


def test_a_run_folder_gives_its_last_else_its_newest_checkpoint(tmp_path: Path) -> None:
    methods = {name: make() for name in ("step=1", "step=2", "last")}
    paths = {name: save(method, tmp_path / "checkpoints" / f"{name}.ckpt") for name, method in methods.items()}
    for seconds, name in ((100, "last"), (200, "step=2"), (300, "step=1")):
        os.utime(paths[name], (seconds, seconds))
    assert same(d2v.load(tmp_path), methods["last"].student)
    paths["last"].unlink()
    assert same(d2v.load(tmp_path), methods["step=1"].student)
    assert same(d2v.load(tmp_path / "checkpoints"), methods["step=1"].student)


def test_a_folder_of_weights(tmp_path: Path) -> None:
    method = make()
    write_folder(tmp_path / "model", method.state_dict(), {"method": recipe()}, "card")
    assert same(d2v.load(tmp_path / "model"), method.student)
    assert same(d2v.load(tmp_path / "model", weights="teacher"), method.teacher.encoder)


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    base = torch.randn(4, 4)
    write_folder(tmp_path / "model", {"a": base, "b": base, "c": base[1:], "d": base.T}, {"method": {}}, "")
    weights = read_weights(tmp_path / "model")
    for name, expected in {"a": base, "b": base, "c": base[1:], "d": base.T}.items():
        torch.testing.assert_close(weights[name], expected)


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_folder(tmp_path / "model", {"a": torch.ones(1)}, {"method": object()}, "")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_loaded(tmp_path: Path, make_v1_vision: Callable[..., Any]) -> None:
    for absent in ("absent", "absent/model.safetensors"):
        with pytest.raises(UserError, match=f"{absent}: no such file"):
            d2v.load(tmp_path / absent)
    with pytest.raises(UserError, match="nor a checkpoint"):
        d2v.load(tmp_path)
    foreign = tmp_path / "foreign.pth"
    torch.save(make_v1_vision("beit"), foreign)
    assert d2v.load(foreign).width == 32, "is imported by itself"

    method = make()
    state = {f"method.{name}": value for name, value in method.state_dict().items()}
    damaged = tmp_path / "damaged.ckpt"
    torch.save({"state_dict": state, "d2v": {}}, damaged)
    with pytest.raises(UserError, match=r"damaged.ckpt: is damaged: its weights or its encoders are missing"):
        d2v.load(damaged)
    del state["method.student.front.cls_token"]
    torch.save({"state_dict": state, "d2v": entry(method.student.recipe)}, damaged)
    with pytest.raises(UserError, match=r"damaged.ckpt.*cls_token is missing"):
        d2v.load(damaged)
    evil = {**method.student.recipe, "front": node("os.system")}
    torch.save({"state_dict": state, "d2v": entry(evil)}, damaged)
    with pytest.raises(UserError, match=r"needs a class of the package 'os'.*--allow os"):
        d2v.load(damaged)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "not readable"),
        ("[]", "holds a list, where an object belongs"),
        (json.dumps({"format": 1}), "was not written by"),
        (json.dumps({"format": 9, "method": {}}), "has format 9"),
        (json.dumps({"format": 1, "method": {}}), "where front and trunk belong"),
    ],
)
def test_a_folder_with_another_config(tmp_path: Path, config: str, message: str) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=message):
        d2v.load(tmp_path)


def test_damaged_weights_of_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", make().state_dict(), {"method": recipe()}, "card")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model.safetensors: not readable"):
        d2v.load(tmp_path / "model")


def test_changed_arguments_of_the_encoder(tmp_path: Path) -> None:
    path = save(make(), tmp_path / "a.ckpt")
    plain, changed = d2v.load(path), d2v.load(path, dropout=0.2, checkpoint_activations=1.0)
    assert changed.front.input_dropout.p == 0.2
    assert changed.trunk.checkpoint_activations == 1
    assert changed.recipe["trunk"]["dropout"] == 0.2
    assert same(plain, changed)
    with pytest.raises(
        UserError, match=r"layer_drip=0.1: the encoder has no such argument; VisionFrontEnd has .*trunk .*depth"
    ):
        d2v.load(path, layer_drip=0.1)
    with pytest.raises(UserError, match="do not fit the encoder"):
        d2v.load(path, width=32)


def several(folder: Path, shared_trunk: bool) -> tuple[Path, dict[str, Encoder]]:
    """A checkpoint of two encoders, as a joint training writes it."""
    encoders = {"vision": make().student, "speech": make(width=8).student}
    if shared_trunk:
        encoders["speech"] = make().student
        encoders["speech"].trunk = encoders["vision"].trunk
    state = {}
    for name, encoder in encoders.items():
        for key, value in encoder.state_dict().items():
            shared = shared_trunk and key.startswith("trunk.")
            state[f"method.student.{key if shared else f'{name}.{key}'}"] = value
    entries = {}
    for name, encoder in encoders.items():
        entries[name] = {"recipe": encoder.recipe, "assets": {f"{name}.json": "{}"}, "licence": f"of {name}"}
    torch.save({"state_dict": state, "d2v": {"version": "0", "encoders": entries}}, folder / "joint.ckpt")
    return folder / "joint.ckpt", encoders


@pytest.mark.parametrize("shared_trunk", [False, True])
def test_one_of_several_encoders(tmp_path: Path, shared_trunk: bool) -> None:
    path, encoders = several(tmp_path, shared_trunk)
    for name, expected in encoders.items():
        encoder = d2v.load(path, modality=name)
        assert same(encoder, expected)
        assert (encoder.assets, encoder.licence) == ({f"{name}.json": "{}"}, f"of {name}")
    with pytest.raises(UserError, match=r"joint\.ckpt: holds several encoders; say which as modality: vision, speech"):
        d2v.load(path)
    with pytest.raises(UserError, match="modality='text' is not there; it holds vision, speech"):
        d2v.load(path, modality="text")
    with pytest.raises(UserError, match="holds no teacher"):
        d2v.load(path, weights="teacher", modality="speech")
    single = save(make(), tmp_path / "a.ckpt")
    assert same(d2v.load(single, modality="vision"), d2v.load(single))


def test_init_weights_takes_all_of_an_equal_method(tmp_path: Path) -> None:
    source, method = make(), make()
    assert init_weights(method, save(source, tmp_path / "a.ckpt")) == []
    assert same(method, source)
    assert not any(value.requires_grad for value in method.teacher.parameters())


def test_init_weights_tells_what_starts_otherwise(tmp_path: Path) -> None:
    source = make(shared=("feature_extractor",))
    path = save(source, tmp_path / "a.ckpt")
    head = recipe()["head"]
    wider = node(head["class_path"], **{**head["init_args"], "decoder_width": 16, "num_layers": 0})
    method = build_method({**recipe(), "head": wider})
    notes = init_weights(method, path)
    assert notes[0] == "the teacher starts as the student in feature_extractor"
    assert notes[1].startswith("the head starts anew: ")
    assert "proj.weight has the shape [16, 8] and not [16, 16]" in notes[1]
    assert same(method.teacher.encoder.front.feature_extractor, source.student.front.feature_extractor)
    assert same(method.teacher.encoder.trunk, source.teacher.encoder.trunk)

    no_teacher = {name: value for name, value in source.state_dict().items() if not name.startswith("teacher.")}
    write_folder(tmp_path / "model", no_teacher, {"method": recipe()}, "")
    method = make()
    assert init_weights(method, tmp_path / "model") == ["the teacher starts as the student"]
    assert same(method.teacher.encoder, source.student)


def test_blocks_may_be_counted_otherwise_and_cls_tokens_start_anew(tmp_path: Path) -> None:
    """emotion2vec goes on from data2vec 2.0 speech: of its 12 blocks 4 are a prenet then, and ten tokens are new."""
    source, method = make(depth=3, num_cls=0), make(depth=2, prenet_depth=1, num_cls=2)
    tokens = method.student.front.cls_token.clone()
    notes = init_weights(method, save(source, tmp_path / "a.ckpt"))
    assert notes == ["the 2 CLS tokens start anew", "the teacher starts as the student in cls_token"]
    assert torch.equal(method.student.front.cls_token, tokens)
    for ours, theirs in ((method.student, source.student), (method.teacher.encoder, source.teacher.encoder)):
        blocks = [*ours.front.prenet, *ours.trunk.blocks]
        assert all(same(block, other) for block, other in zip(blocks, theirs.trunk.blocks, strict=True))
    back = make(depth=3, num_cls=2)
    assert init_weights(back, save(method, tmp_path / "b.ckpt")) == []
    assert same(back.student.trunk.blocks[0], source.student.trunk.blocks[0])
    with pytest.raises(UserError, match=r"blocks\.2\.\S+ is missing"):
        init_weights(make(depth=3, prenet_depth=1, num_cls=0), tmp_path / "a.ckpt")


def test_a_teacher_starts_as_the_student_where_that_is_asked_for(tmp_path: Path) -> None:
    """As in 1.0's second run of ViT-L: run_cyclical.py reads --seed_model into the model, and then copies the model."""
    source = make()
    for parameter in source.teacher.parameters():
        parameter.data += 1.0
    path = save(source, tmp_path / "a.ckpt")
    method = make()
    assert init_weights(method, path, "student") == ["the teacher starts as the student"]
    assert same(method.student, source.student)
    assert same(method.teacher.encoder, source.student)
    assert same(method.task, source.task)


def test_init_weights_refuses_another_student(tmp_path: Path) -> None:
    path = save(make(), tmp_path / "a.ckpt")
    method = make(width=32)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with pytest.raises(UserError, match=r"model.init_from .*cls_token has the shape \[1, 16\] and not \[1, 32\]"):
        init_weights(method, path)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_an_imported_folder_starts_a_pretraining(
    make_v2_image: Callable[..., Any], import_content: Callable[..., Path]
) -> None:
    folder = import_content(make_v2_image())
    method = build_method(read_config(folder)["method"])
    assert init_weights(method, folder) == []
    assert all(torch.equal(value, read_weights(folder)[name]) for name, value in method.state_dict().items())


def test_import_of_the_package_is_cheap() -> None:
    code = "import sys, d2v, d2v.commands.import_; sys.exit('torch' in sys.modules or 'load' not in d2v.__all__)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        d2v.lode  # noqa: B018

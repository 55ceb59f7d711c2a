"""`d2v import`: every layout of every shape arrives whole, and what is broken is refused with one message."""

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import arguments, load_method, step
from torch import Tensor

import d2v
from d2v.checkpoints.folder import read_config, read_weights
from d2v.checkpoints.head_files import load_head
from d2v.commands import import_
from d2v.errors import UserError
from d2v.types import Batch

Make = Callable[..., dict[str, Any]]
Import = Callable[..., Path]


def one_step(folder: Path) -> None:
    """The imported method trains: a finite loss, and a teacher that differs from the student."""
    method = load_method(folder)
    student = arguments(method.student.recipe)
    size = student["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    batch = Batch(torch.randn(2, 3, height, width), torch.arange(2), torch.zeros(2, dtype=torch.int64))
    output = step(method, batch)
    assert torch.isfinite(output.loss)
    output.loss.backward()
    with torch.no_grad():
        outputs = [d2v.load(folder, weights=which)(batch.inputs).tokens for which in ("student", "teacher")]
    assert not torch.allclose(*outputs)


@pytest.mark.parametrize("seed", range(6))
def test_v2_of_any_shape_arrives_whole(
    seed: int, make_v2_image: Make, import_content: Import, sorted_values: Callable[[dict[str, Tensor]], Tensor]
) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    heads = draw.choice([1, 2, 3, 5])
    shape = {
        "heads": heads,
        "width": heads * draw.choice([4, 8]),
        "depth": draw.choice([1, 3, 4]),
        "prenet": draw.choice([0, 0, 2]),  # 0: large and huge
        "patch": draw.choice([2, 7, 14]),
        "side": draw.choice([3, 5]),
        "extra": draw.choice([1, 2]),
        "decoder": (draw.choice([8, 24]), draw.choice([1, 3]), draw.choice([3, 5]), draw.choice([1, 2, 4])),
        "hidden": draw.choice([30, 33, 64]),  # not every one is a multiple of the width
    }
    shape["width"] = shape["width"] * 4
    choices = {
        "end_of_block_targets": draw.random() < 0.5,
        "average_top_k_layers": draw.choice([1, 8]),
        "clone_batch": draw.choice([1, 3]),
        "cls_loss": draw.choice([0, 0.01]),
        "loss_beta": draw.choice([0, 1]),
        "norm_eps": None,
    }
    content = make_v2_image(**shape, **choices)
    folder = import_content(content)
    weights = read_weights(folder)
    method = read_config(folder)["method"]
    student = arguments(method["student"])
    assert {key: student[ours] for key, ours in {"heads": "num_heads", "width": "width", "depth": "depth"}.items()} == {
        key: shape[key] for key in ("heads", "width", "depth")
    }
    assert (student["prenet_depth"], student["num_cls"], student["eps"]) == (shape["prenet"], shape["extra"], 1e-6)
    assert student["image_size"] == shape["side"] * shape["patch"]
    head = method["head"]["init_args"]
    assert (head["decoder_width"], head["num_layers"], head["kernel_size"], head["groups"]) == shape["decoder"]
    assert method["targets"]["init_args"]["source"] == ("end" if choices["end_of_block_targets"] else "ffn")
    assert method["targets"]["init_args"]["top_k"] == min(choices["average_top_k_layers"], shape["depth"])
    assert method["num_masks"] == choices["clone_batch"]

    ema = content["model"].pop("_ema")
    ours = {name: value for name, value in weights.items() if not name.startswith("teacher.")}
    torch.testing.assert_close(sorted_values(ours), sorted_values(content["model"]))
    teacher = {name: value for name, value in weights.items() if name.startswith("teacher.")}
    torch.testing.assert_close(sorted_values(teacher), sorted_values(ema))
    one_step(folder)


@pytest.mark.parametrize("port", ["beit", "fairseq"])
@pytest.mark.parametrize("seed", range(5))
def test_v1_of_any_shape_arrives_whole(
    port: str,
    seed: int,
    make_v1_vision: Make,
    make_beit_args: Callable[..., argparse.Namespace],
    import_content: Import,
    sorted_values: Callable[[dict[str, Tensor]], Tensor],
) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    heads = draw.choice([1, 2, 3])
    depth, side = draw.choice([2, 3, 12]), draw.choice([3, 5])
    grid = (side, side + 1) if port == "beit" and draw.random() < 0.5 else (side, side)
    shape = {
        "heads": heads,
        "width": heads * 8,
        "depth": depth,  # 12: block 10 sorts before block 2 by name
        "patch": draw.choice([2, 7]),
        "grid": grid,
        "bias": "shared" if port == "fairseq" else draw.choice(["shared", "per_block"]),
        "positions": port == "beit" and draw.random() < 0.5,
        "layer_scale": draw.random() < 0.5,
        "hidden": draw.choice([33, 64]),
    }
    content = make_v1_vision(port, **shape)
    if port == "beit":
        content["args"] = make_beit_args(depth, grid)
    folder = import_content(content)
    config, weights = read_config(folder), read_weights(folder)
    student = arguments(config["method"]["student"])
    assert (student["num_heads"], student["depth"], student["relative_bias"]) == (heads, depth, shape["bias"])
    assert (student["layer_scale"] is not None) == shape["layer_scale"]
    assert config["method"]["masking"]["init_args"]["grid"] == list(grid)
    if port == "beit":
        assert config["method"]["masking"]["init_args"]["num_patches"] == 7
        assert config["method"]["targets"]["init_args"]["top_k"] == depth - 1
        assert config["left_out"] == ["model_ema.lm_head.weight", "model_ema.lm_head.bias"]
        ema = {name: value for name, value in content["model_ema"].items() if not name.startswith("lm_head")}
        if shape["bias"] == "per_block":
            table = weights["student.front.attention_bias.table"]
            official = content["model"][f"blocks.{depth - 1}.attn.relative_position_bias_table"]
            torch.testing.assert_close(table[depth - 1], official)
    else:
        assert config["left_out"] == ["final_proj.weight", "final_proj.bias"]
        assert config["method"]["shared_with_teacher"] == ["feature_extractor"]
        ema = content["model"].pop("_ema")
        borrowed = {"cls": content["model"]["cls_emb"], "mask": content["model"]["mask_emb"]}
        ema = {**ema, **borrowed}
    model = {name: value for name, value in content["model"].items() if not name.startswith("final_proj")}
    ours = {name: value for name, value in weights.items() if not name.startswith("teacher.")}
    torch.testing.assert_close(sorted_values(ours), sorted_values(model))
    teacher = {name: value for name, value in weights.items() if name.startswith("teacher.")}
    torch.testing.assert_close(sorted_values(teacher), sorted_values(ema))
    one_step(folder)


def test_half_precision_weights_become_single(make_v2_image: Make, import_content: Import) -> None:
    folder = import_content(make_v2_image(fp16=True))
    assert {value.dtype for value in read_weights(folder).values()} == {torch.float32}


def test_v2_without_teacher_decoder_or_local_ema(make_v2_image: Make, import_content: Import) -> None:
    content = make_v2_image(decoder=None)
    del content["model"]["_ema"]
    folder = import_content(content)
    assert not any(name.startswith(("teacher.", "head.")) for name in read_weights(folder))
    assert any("no decoder" in note for note in read_config(folder)["notes"])
    with pytest.raises(UserError, match="no teacher"):
        d2v.load(folder, weights="teacher")
    method = load_method(folder)  # continues with a teacher that starts as the student
    for name, value in method.teacher.encoder.named_parameters():
        torch.testing.assert_close(value, dict(method.student.named_parameters())[name])

    shared = import_content(make_v2_image(ema_local_encoder=False), "shared")
    assert read_config(shared)["method"]["shared_with_teacher"] == ["feature_extractor"]
    one_step(shared)


def test_v2_fine_tuned_by_fairseq(make_v2_image: Make, import_content: Import) -> None:
    content = make_v2_image(decoder=None)
    del content["model"]["_ema"]
    state = {f"model.{name}": value for name, value in content["model"].items()}
    state |= {"head.weight": torch.randn(10, 32), "head.bias": torch.randn(10), "fc_norm.weight": torch.ones(32)}
    cfg = {"_name": "mae_image_classification", "pretrained_model_args": content["cfg"], "norm_eps": None}
    state["fc_norm.bias"] = torch.randn(32)
    folder = import_content({"cfg": {"model": cfg}, "model": state})
    assert read_config(folder)["left_out"] == []
    assert read_config(folder)["source"]["layout"].endswith("fine-tuned")
    assert d2v.load(folder).recipe["trunk"]["num_heads"] == 4
    head = load_head(folder)
    assert head is not None
    assert (head.pool, head.names, head.task) == ("mean", None, "single")
    assert torch.equal(head.weights["norm.bias"], state["fc_norm.bias"])
    assert torch.equal(head.weights["proj.weight"], state["head.weight"])
    cfg["prediction_mode"] = "CLS_TOKEN"
    assert read_config(import_content({"cfg": {"model": cfg}, "model": state}, "cls"))["head"]["pool"] == "cls"
    cfg["prediction_mode"] = "LIN_SOFTMAX"
    assert "head" not in read_config(import_content({"cfg": {"model": cfg}, "model": state}, "softmax"))


def test_what_differs_from_the_published_recipe_is_told(make_v2_image: Make, import_content: Import) -> None:
    content = make_v2_image(average_top_k_layers=2, clone_batch=16, ema_decay=0.9998)
    folder = import_content(content)
    (note,) = [note for note in read_config(folder)["notes"] if "published recipe" in note]
    assert "average_top_k_layers: the checkpoint says 2, the published recipe 10" in note
    assert "image.mask_prob: the checkpoint says 0.5, the published recipe 0.8" in note
    assert "base_images_only_task.yaml" in note
    assert "clone_batch" not in note
    assert "ema_decay" not in note
    assert read_config(folder)["method"]["targets"]["init_args"]["top_k"] == 2


def test_contradictions_are_told_and_the_weights_win(
    make_v2_image: Make, import_content: Import, capsys: pytest.CaptureFixture[str]
) -> None:
    content = make_v2_image(depth=2)
    content["cfg"]["model"]["depth"] = 5
    folder = import_content(content)
    assert "note: cfg.model.depth says 5, the weights say 2" in capsys.readouterr().out
    assert len(d2v.load(folder).trunk.blocks) == 2


@pytest.mark.parametrize("wrap", ["model", "module", "state_dict", None])
def test_beit_weights_in_any_wrapping(wrap: str | None, make_v1_vision: Make, import_content: Import) -> None:
    state = make_v1_vision("beit", teacher=False)["model"]
    state = {f"module.{name}": value for name, value in state.items()}
    folder = import_content({wrap: state, "epoch": 1} if wrap else state)
    config = read_config(folder)
    assert config["left_out"] == []
    assert config["method"]["masking"]["init_args"] == {
        "num_patches": 10, "grid": [4, 4], "min_block": 10, "max_block": 196,
    }  # fmt: skip
    assert any("published Base run" in note for note in config["notes"])
    assert any("min_mask_patches_per_block 16 does not suit" in note for note in config["notes"])
    d2v.load(folder)


@pytest.mark.parametrize("kind", ["fc_norm", "linear probe", "cls", "deepspeed"])
def test_a_model_that_beit_fine_tuned_gives_its_features_and_head(
    kind: str, make_v1_vision: Make, import_content: Import
) -> None:
    content = make_v1_vision("beit", teacher=False, fine_tuned=True)
    state = content["model"]
    norm = [state.pop(f"fc_norm.{part}") for part in ("weight", "bias")]
    if kind == "cls":
        state |= {"norm.weight": norm[0], "norm.bias": norm[1]}
    elif kind == "linear probe":  # whose norm has no weights
        norm = [torch.ones(32), torch.zeros(32)]
    else:
        state |= {"fc_norm.weight": norm[0], "fc_norm.bias": norm[1]}
    if kind == "deepspeed":  # mp_rank_00_model_states.pt: half precision, under its own key
        state = {name: value.half() for name, value in state.items()}
        norm = [value.half().float() for value in norm]
        content = {"module": state, "optimizer": None, "skipped_steps": 0, "mp_world_size": 1, "epoch": 99}
        content |= {"args": argparse.Namespace(nb_classes=10), "csr_tensor_module_names": set(), "ds_version": "0.5"}
    folder = import_content(content)
    config, head, encoder = read_config(folder), load_head(folder), d2v.load(folder)
    assert head is not None
    assert any("mask embedding" in note for note in config["notes"])
    assert config["left_out"] == []
    assert (head.pool, head.has_norm) == (("cls", False) if kind == "cls" else ("mean", True))
    assert torch.equal(head.weights["proj.weight"], state["head.weight"].float())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = encoder(x)
        if kind == "cls":
            inner = encoder(x).layers[-1]
            torch.testing.assert_close(tokens.tokens, torch.nn.functional.layer_norm(inner, (32,), *norm, eps=1e-6))
        else:
            torch.testing.assert_close(tokens.tokens, tokens.layers[-1])
            assert torch.equal(head.weights["norm.weight"], norm[0])
            assert torch.equal(head.weights["norm.bias"], norm[1])


def test_a_classifier_on_all_layers_is_left_out(make_v1_vision: Make, import_content: Import) -> None:
    content = make_v1_vision("beit", teacher=False, fine_tuned=True)
    content["model"]["layer_log_weights"] = torch.zeros(3)
    config = read_config(import_content(content))
    assert "head" not in config
    assert any("weighted sum of all layers" in note for note in config["notes"])
    assert "head.weight" in config["left_out"]


def test_a_model_that_fairseq_fine_tuned_gives_its_head(make_v1_vision: Make, import_content: Import) -> None:
    content = make_v1_vision("fairseq", teacher=False, fine_tuned=True)
    folder = import_content(content)
    config, head = read_config(folder), load_head(folder)
    assert head is not None
    assert config["left_out"] == []
    assert torch.equal(head.weights["norm.weight"], content["model"]["fc_norm.weight"])
    assert "output_norm" not in config["method"]["student"]["trunk"]


def test_settings_that_cannot_be_kept_are_told(
    make_v1_vision: Make, make_beit_args: Callable[..., argparse.Namespace], import_content: Import
) -> None:
    content = make_v1_vision("beit")
    content["args"] = make_beit_args(
        3, (4, 4), target_instance_norm=True, post_target_instance_norm=True, loss_scale=2.0, var_w0=0.1,
        target_layers="[0, 1]", num_mask_patches=75,
    )  # fmt: skip
    notes = "\n".join(read_config(import_content(content))["notes"])
    for word in (
        "of each target layer",
        "of the mean target",
        "loss_scale",
        "var_w0",
        "target_layers",
        "num_mask_patches",
    ):
        assert word in notes


def test_what_is_written(make_v2_image: Make, import_content: Import, capsys: pytest.CaptureFixture[str]) -> None:
    folder = import_content(make_v2_image())
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert not list(folder.parent.glob(".*"))
    config = json.loads((folder / "config.json").read_text())
    assert config.keys() == {"format", "d2v_version", "method", "ema", "source", "left_out", "notes"}
    assert config["source"]["file"] == "model.pt"
    assert len(config["source"]["sha256"]) == 64
    card = (folder / "README.md").read_text()
    assert "d2v.load" in card
    assert "CC-BY-NC" in card
    printed = capsys.readouterr().out
    assert "fairseq data2vec 2.0 vision" in printed
    assert "width 32, blocks 1 + 2, heads 4, patch 8, image 32" in printed
    assert "student, teacher, head" in printed


def test_an_output_that_is_there_is_left_alone(tmp_path: Path, make_v2_image: Make, import_content: Import) -> None:
    kept = tmp_path / "model" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(UserError, match=r"--output .*there is something already"):
        import_content(make_v2_image())
    assert [path.name for path in kept.parent.iterdir()] == ["mine.txt"]
    kept.unlink()
    import_content(make_v2_image())  # an empty folder is as good as none


def broken(make_v2_image: Make, make_v1_vision: Make) -> dict[str, tuple[Any, str]]:
    missing = make_v2_image()
    del missing["model"]["blocks.1.norm1.weight"]
    odd = make_v2_image()
    odd["model"]["blocks.0.mlp.fc2.bias"] = torch.randn(7)
    half_teacher = make_v2_image()
    del half_teacher["model"]["_ema"]["blocks.1.attn.proj.weight"]
    flat = make_v2_image()
    flat["model"]["modality_encoders.IMAGE.extra_tokens"] = torch.randn(32)
    no_block = make_v1_vision("beit")
    no_block["model"] = {name: value for name, value in no_block["model"].items() if "blocks.0.mlp" not in name}
    uneven = make_v1_vision("beit", bias=None, positions=True)
    uneven["model"]["pos_embed"] = torch.randn(1, 15, 32)
    heads = make_v2_image()
    heads["cfg"]["model"]["num_heads"] = 5
    no_cfg = make_v2_image()
    del no_cfg["cfg"]
    pre_norm = make_v2_image(layer_norm_first=True)
    no_tensor = make_v2_image()
    no_tensor["model"]["blocks.0.norm1.bias"] = "a text"
    return {
        "missing": (missing, "student.trunk.blocks.1.norm1.weight is missing"),
        "odd": (odd, r"student.trunk.blocks.0.mlp.2.bias has the shape \[7\] and not \[32\]"),
        "half a teacher": (half_teacher, "teacher.encoder.trunk.blocks.1.attention.proj.weight is missing"),
        "flat": (flat, r"cls_token has the shape \[32\]"),
        "no block": (no_block, "blocks.0.mlp.0.weight is missing"),
        "not square": (uneven, "14 positions are no square"),
        "heads": (heads, "width 32 is not a multiple of num_heads 5"),
        "no settings": (no_cfg, "no cfg.model section"),
        "pre-norm": (pre_norm, "layer_norm_first"),
        "no tensor": (no_tensor, "blocks.0.norm1.bias is missing"),
        "2.0 speech without settings": (
            {"model": {"modality_encoders.AUDIO.alibi_scale": torch.ones(1)}},
            "no cfg.model section",
        ),
        "1.0 speech without all": (
            {"model": {"feature_extractor.conv_layers.0.0.weight": torch.ones(1)}},
            "feature_extractor.proj.weight is missing",
        ),
        "weights of Hugging Face": (
            {"data2vec_audio.feature_extractor.conv_layers.0.conv.weight": torch.ones(1)},
            "give the folder, with the config.json",
        ),
        "2.0 text without settings": (
            {"model": {"modality_encoders.TEXT.extra": torch.ones(1)}},
            "no cfg.model section",
        ),
        "1.0 text without all": (
            {"model": {"encoder.sentence_encoder.version": torch.ones(1)}},
            "trunk.blocks.0.mlp.0.weight is missing",
        ),
        "weights of Hugging Face's text": (
            {"data2vec_text.embeddings.word_embeddings.weight": torch.ones(1)},
            "give the folder, with the config.json",
        ),
        "ours": (
            {"state_dict": {"method.student.front.cls_token": torch.ones(1)}, "d2v": {}},
            "itself, which needs no import",
        ),
        "something else": ({"model": {"conv1.weight": torch.ones(1)}}, r"not recognised \(it holds conv1.weight\)"),
        "nothing": ({}, "not recognised"),
    }


BROKEN = [
    "missing", "odd", "half a teacher", "flat", "no block", "not square", "heads", "no settings", "pre-norm",
    "no tensor", "2.0 speech without settings", "1.0 speech without all", "weights of Hugging Face",
    "2.0 text without settings", "1.0 text without all", "weights of Hugging Face's text", "ours", "something else",
    "nothing",
]  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused(
    name: str, make_v2_image: Make, make_v1_vision: Make, import_content: Import, tmp_path: Path
) -> None:
    content, message = broken(make_v2_image, make_v1_vision)[name]
    with pytest.raises(UserError, match=message) as refusal:
        import_content(content)
    assert str(refusal.value).startswith(str(tmp_path / "model.pt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt"]


def test_arguments() -> None:
    parser = argparse.ArgumentParser()
    import_.add_arguments(parser)
    args = parser.parse_args(["checkpoint.pt", "--output", "folder"])
    assert args == argparse.Namespace(
        list=None, source=Path("checkpoint.pt"), output=Path("folder"), dict=None, classes=None, tokenizer=None
    )
    args = parser.parse_args(["folder", "--output", "new", "--dict", "dict.ltr.txt", "--tokenizer", "gpt2"])
    assert (args.dict, args.tokenizer) == (Path("dict.ltr.txt"), Path("gpt2"))

"""`d2v import` of speech: every layout of every shape arrives whole, broken files are refused."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from encoders import arguments, load_method, step
from speech_checkpoints import State, recogniser, v1_audio, v2_audio
from torch import Tensor

import d2v
from d2v.checkpoints.folder import read_config, read_weights
from d2v.errors import UserError
from d2v.types import Batch

Import = Callable[..., Path]
Values = Callable[[State], Tensor]


def one_step(folder: Path) -> None:
    """The imported method trains: a finite loss, and a teacher that differs from the student."""
    method = load_method(folder)
    batch = Batch(torch.randn(2, 400), torch.arange(2), torch.zeros(2, dtype=torch.int64))
    output = step(method, batch)
    assert torch.isfinite(output.loss)
    output.loss.backward()
    with torch.no_grad():
        outputs = [d2v.load(folder, weights=which)(batch.inputs).tokens for which in ("student", "teacher")]
    assert not torch.allclose(*outputs)


def assert_same_values(weights: dict[str, Tensor], model: State, ema: State, values: Values) -> None:
    ours = {name: value for name, value in weights.items() if not name.startswith("teacher.")}
    teacher = {name: value for name, value in weights.items() if name.startswith("teacher.")}
    torch.testing.assert_close(values(ours), values(model))
    torch.testing.assert_close(values(teacher), values(ema))


@pytest.mark.parametrize("seed", range(4))
def test_v2_of_any_shape_arrives_whole(seed: int, import_content: Import, sorted_values: Values) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    heads = draw.choice([1, 2, 3])
    width = heads * 16
    depth, prenet = draw.choice([1, 2, 11]), draw.choice([0, 2])
    positions = (draw.choice([1, 3]), draw.choice([3, 7]), draw.choice([1, 4, 16]))
    decoder = (draw.choice([8, 24]), draw.choice([1, 3]), draw.choice([3, 7]), draw.choice([1, 4]))
    projection = draw.choice([None, 20])
    content = v2_audio(
        width, depth, prenet, heads, draw.choice([33, 64]), positions, decoder, projection, (1, 1, heads, 1, 1),
        clone_batch=2, average_top_k_layers=8, layerdrop=0.05, activation_dropout=0.2,
    )  # fmt: skip
    folder = import_content(content)
    method = read_config(folder)["method"]
    assert not any("activation_dropout" in note for note in read_config(folder)["notes"])
    student, head = arguments(method["student"]), method["head"]["init_args"]
    assert (student["depth"], student["prenet_depth"], student["num_heads"]) == (depth, prenet, heads)
    assert (student["position_layers"], student["position_kernel"], student["position_groups"]) == positions
    assert student["extractor"] == [[8, 10, 5], [12, 3, 2]]
    assert (student["alibi"], student["masked_input"], student["layer_drop"]) == (True, "drop", 0.05)
    assert student["activation_dropout"] == 0.2
    assert (head["decoder_width"], head["num_layers"], head["kernel_size"], head["groups"]) == decoder
    assert method["num_masks"] == 2
    assert method["shared_with_teacher"] == ["feature_extractor"]
    assert_same_values(
        read_weights(folder), {k: v for k, v in content["model"].items() if k != "_ema"}, content["model"]["_ema"],
        sorted_values,
    )  # fmt: skip
    assert read_config(folder)["left_out"] == []
    one_step(folder)


@pytest.mark.parametrize("prenorm", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_v1_of_any_shape_arrives_whole(seed: int, prenorm: bool, import_content: Import, sorted_values: Values) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    heads, depth = draw.choice([1, 2, 3]), draw.choice([1, 2, 11])
    positions = (draw.choice([1, 3]), draw.choice([3, 7]), draw.choice([1, 4]))
    copied = draw.random() < 0.5
    content = v1_audio(
        heads * 16, depth, heads, draw.choice([33, 64]), positions, copied,
        layer_norm_first=prenorm, dropout=0.0, activation_dropout=0.2,
    )  # fmt: skip
    folder = import_content(content)
    config = read_config(folder)
    student = arguments(config["method"]["student"])
    assert (student["depth"], student["num_heads"], student["norm_first"]) == (depth, heads, prenorm)
    assert (student["position_layers"], student["position_kernel"], student["position_groups"]) == positions
    assert (student["alibi"], student["masked_input"]) == (False, "replace")
    assert student["activation_dropout"] == 0.2
    assert not any("activation_dropout" in note for note in config["notes"])
    shared = ["feature_extractor", "positions"] if copied else ["feature_extractor"]
    assert config["method"]["shared_with_teacher"] == shared
    assert any("averaged instead" in note for note in config["notes"]) != copied
    ema = {k: v for k, v in content["model"].pop("_ema").items() if not (copied and k.startswith("pos_conv."))}
    assert_same_values(
        read_weights(folder), content["model"], {**ema, "mask": content["model"]["mask_emb"]}, sorted_values
    )
    # Queries, keys and values stand in this order.
    qkv = read_weights(folder)["student.trunk.blocks.0.attention.qkv.weight"].chunk(3)
    for part, letter in zip(qkv, "qkv", strict=True):
        assert torch.equal(part, content["model"][f"encoder.layers.0.self_attn.{letter}_proj.weight"])
    one_step(folder)


def test_half_precision_positions_are_still_a_copy(import_content: Import) -> None:
    content = v1_audio()
    ema = content["model"].pop("_ema")
    content["model"] = {name: value.half() for name, value in content["model"].items()} | {"_ema": ema}
    assert read_config(import_content(content))["method"]["shared_with_teacher"] == ["feature_extractor", "positions"]


def test_v2_with_a_teacher_of_blocks_only(import_content: Import) -> None:
    folder = import_content(v2_audio(blocks_only=True))
    shared = ["feature_extractor", "positions", "input_norm"]
    assert read_config(folder)["method"]["shared_with_teacher"] == shared
    one_step(folder)


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 1, 1, 1, 1), None])
def test_v2_of_other_alibi(shape: tuple[int, ...] | None, import_content: Import) -> None:
    folder = import_content(v2_audio(alibi=shape))
    scale = read_weights(folder).get("student.front.attention_bias.scale")
    assert (scale is None) == (shape is None)
    assert scale is None or scale.shape == (4,)
    one_step(folder)


def test_v1_without_settings_of_published_strides(import_content: Import) -> None:
    content = v1_audio()
    del content["cfg"]
    with pytest.raises(UserError, match="strides of its 2 convolutions are not known"):
        import_content(content)


def without(content: State, part: str) -> State:
    return {**content, "model": {name: value for name, value in content["model"].items() if part not in name}}


def renamed(content: State, **changes: str) -> State:
    """With tensors under the names of another kind of model."""
    model = dict(content["model"])
    for old, new in changes.items():
        name = next(name for name in model if name.endswith(old.replace("__", ".")))
        model[name.replace(old.replace("__", "."), new)] = model.pop(name)
    return {**content, "model": model}


def broken() -> dict[str, tuple[State, str]]:
    group_norm = renamed(v1_audio(), conv_layers__0__2__1__weight="conv_layers.0.2.weight")
    weight_norm = renamed(v1_audio(), pos_conv__0__0__weight="pos_conv.0.weight_g")
    odd = v1_audio()
    odd["model"]["encoder.layers.0.self_attn.k_proj.weight"] = torch.randn(3, 32)
    odd_cls = v2_audio()
    odd_cls["model"]["modality_encoders.AUDIO.extra_tokens"] = torch.randn(32)
    no_cfg = v2_audio()
    del no_cfg["cfg"]
    head = recogniser(v1_audio(), width=16)
    return {
        "no projection": (without(v1_audio(), "post_extract_proj"), "feature_extractor.proj.weight is missing"),
        "no query": (without(v1_audio(), "layers.1.self_attn.q_proj.bias"), "attention.[kq]"),
        "no key": (without(v1_audio(), "layers.1.self_attn.k_proj.bias"), "one is missing or odd"),
        "odd key": (odd, "one is missing or odd"),
        "no norm": (without(v1_audio(), "layers.1.fc1.bias"), r"blocks.1.mlp.0.bias is missing"),
        "no positions": (without(v2_audio(), "relative_positional_encoder"), "positions.layers.0.weight is missing"),
        "group norm": (group_norm, "wav2vec 2.0 or HuBERT"),
        "weight norm": (weight_norm, "wav2vec 2.0 or HuBERT"),
        "extractor bias": (
            renamed(v1_audio(), conv_layers__0__2__1__bias="conv_layers.0.0.bias"),
            "have a bias",
        ),
        "conformer": (v1_audio(layer_type="conformer"), "layer_type is 'conformer'"),
        "activation": (v1_audio(activation_fn="relu"), "activation_fn is 'relu'"),
        "pre-norm of 2.0": (v2_audio(layer_norm_first=True), "layer_norm_first"),
        "odd CLS": (odd_cls, "cls_token has the shape"),
        "learned alibi": (v2_audio(audio={"learned_alibi": True}), "learned_alibi"),
        "alibi a layer": (v2_audio(alibi=(2, 1, 4, 1, 1)), r"alibi_scale is \[2, 1, 4, 1, 1\]"),
        "heads": (v2_audio(alibi=None, num_heads=5), "width 32 is not a multiple of num_heads 5"),
        "no settings": (no_cfg, "no cfg.model section"),
        "layers": (v1_audio(conv_feature_layers="[(8, 10, 5)]"), "has 1 layers, but the weights have 2"),
        "a program": (v1_audio(conv_feature_layers="__import__('os').system('true')"), "no list of"),
        "huge": (v1_audio(conv_feature_layers="[(8, 10, 5)] * 10**9"), "no list of"),
        "no spec": (v2_audio(audio={"feature_encoder_spec": 3}), "no list of"),
        "text for a number": (
            v1_audio(encoder_attention_heads="x"),
            "settings cannot be understood: ValueError: .*'x'",
        ),
        "a list for a number": (v2_audio(average_top_k_layers=[1]), "settings cannot be understood: TypeError: int"),
        "no heads": (v1_audio(encoder_attention_heads=0), "cannot be built"),
        "even kernel": (v1_audio(positions=(1, 4, 4)), "must be odd"),
        "head of another width": (head, "head reads 16 features"),
    }


@pytest.mark.parametrize("name", broken())
def test_what_is_broken_is_refused(name: str, import_content: Import, tmp_path: Path) -> None:
    content, message = broken()[name]
    with pytest.raises(UserError, match=message) as refusal:
        import_content(content)
    assert str(refusal.value).startswith(str(tmp_path / "model.pt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt"]

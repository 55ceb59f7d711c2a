"""`d2v import` of text: both of fairseq's layouts of every shape arrive whole, what d2v has not is refused."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import arguments, load_method, step
from text_checkpoints import State, classifier, v1_text, v2_text
from torch import Tensor

import d2v
from d2v.checkpoints.folder import read_config, read_weights
from d2v.checkpoints.head_files import load_head
from d2v.checkpoints.recipe import node
from d2v.errors import UserError
from d2v.types import Batch

Import = Callable[..., Path]
Values = Callable[[State], Tensor]
SHARED = ["feature_extractor", "positions", "input_norm"]
IDS = torch.randint(4, 39, (2, 18), generator=torch.Generator().manual_seed(0))


def one_step(folder: Path) -> None:
    """The imported method trains: a finite loss, and a teacher that differs from the student."""
    method = load_method(folder)
    output = step(method, Batch(IDS, torch.arange(2), torch.zeros(2, dtype=torch.int64)))
    assert torch.isfinite(output.loss)
    output.loss.backward()
    with torch.no_grad():
        outputs = [d2v.load(folder, weights=which)(IDS).tokens for which in ("student", "teacher")]
    assert not torch.allclose(*outputs)


def used(state: State) -> State:
    """Without what no token reads."""
    state = {name: value for name, value in state.items() if isinstance(value, Tensor) and "version" not in name}
    return {name: value[2:] if name.endswith("embed_positions.weight") else value for name, value in state.items()}


def assert_same_values(weights: dict[str, Tensor], model: State, ema: State, values: Values) -> None:
    ours = {name: value for name, value in weights.items() if not name.startswith("teacher.")}
    teacher = {name: value for name, value in weights.items() if name.startswith("teacher.")}
    torch.testing.assert_close(values(ours), values(used(model)))
    torch.testing.assert_close(values(teacher), values(used(ema)))


@pytest.mark.parametrize("seed", range(4))
def test_v1_of_any_shape_arrives_whole(seed: int, import_content: Import, sorted_values: Values) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    heads, depth = draw.choice([1, 2, 3]), draw.choice([1, 2, 11])
    copied, head_layers = seed % 2 == 0, draw.choice([1, 2])
    content = v1_text(
        heads * 16, depth, heads, draw.choice([33, 64]), copied=copied, head_layers=head_layers,
        transformer={"activation_dropout": 0.2}, encoder={"layerdrop": 0.05},
    )  # fmt: skip
    folder = import_content(content)
    config, weights = read_config(folder), read_weights(folder)
    student = arguments(config["method"]["student"])
    assert (student["depth"], student["num_heads"], student["masked_input"]) == (depth, heads, "replace")
    assert (student["vocab_size"], student["max_positions"]) == (40, 20)
    assert (student["activation_dropout"], student["layer_drop"]) == (0.2, 0.05)
    assert config["method"]["head"]["class_path"].endswith("LinearHead" if head_layers == 1 else "MLPHead")
    assert config["method"]["shared_with_teacher"] == (SHARED if copied else [])
    assert any("averaged instead" in note for note in config["notes"]) != copied
    assert config["left_out"] == []
    ema = content["model"].pop("encoder._ema")
    ema = {name: value for name, value in ema.items() if not copied or name.startswith("layers.")}
    assert_same_values(weights, content["model"], ema, sorted_values)
    # Queries, keys and values stand in this order.
    qkv = weights["student.trunk.blocks.0.attention.qkv.weight"].chunk(3)
    for part, letter in zip(qkv, "qkv", strict=True):
        name = f"encoder.sentence_encoder.layers.0.self_attn.{letter}_proj.weight"
        assert torch.equal(part, content["model"][name])
    one_step(folder)


@pytest.mark.parametrize("blocks_only", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_v2_of_any_shape_arrives_whole(
    seed: int, blocks_only: bool, import_content: Import, sorted_values: Values
) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    heads, depth = draw.choice([1, 2, 3]), draw.choice([1, 2, 11])
    decoder = (draw.choice([8, 24]), draw.choice([1, 3]), draw.choice([3, 9]), draw.choice([1, 4]))
    content = v2_text(
        heads * 16, depth, heads, draw.choice([33, 64]), decoder=decoder, projection=draw.choice([None, 20]),
        blocks_only=blocks_only, clone_batch=2, layerdrop=0.05, text={"mask_noise_std": 0.02},
    )  # fmt: skip
    folder = import_content(content)
    config = read_config(folder)
    student, head = arguments(config["method"]["student"]), config["method"]["head"]["init_args"]
    assert (student["depth"], student["num_heads"], student["layer_drop"]) == (depth, heads, 0.05)
    assert (student["vocab_size"], student["max_positions"]) == (40, 20)
    assert student.get("masked_input", "drop") == "drop"
    assert (head["decoder_width"], head["num_layers"], head["kernel_size"], head["groups"]) == decoder
    assert head["mask_noise"] == 0.02
    assert config["method"]["num_masks"] == 2
    assert config["method"]["shared_with_teacher"] == SHARED
    assert config["left_out"] == []
    assert_same_values(read_weights(folder), content["model"], content["model"].pop("_ema"), sorted_values)
    one_step(folder)


@pytest.mark.parametrize("make", [v1_text, v2_text])
def test_a_teacher_that_the_file_does_not_hold(make: Callable[..., State], import_content: Import) -> None:
    content = make()
    content["model"] = {name: value for name, value in content["model"].items() if not name.endswith("_ema")}
    folder = import_content(content)
    assert read_config(folder)["method"]["shared_with_teacher"] == SHARED
    assert step(load_method(folder), Batch(IDS, torch.arange(2), torch.zeros(2, dtype=torch.int64))).loss.isfinite()
    with pytest.raises(UserError, match="no teacher"):
        d2v.load(folder, weights="teacher")


def test_v1_in_half_precision_still_shares(import_content: Import) -> None:
    content = v1_text()
    ema = content["model"].pop("encoder._ema")
    content["model"] = {name: value.half() for name, value in content["model"].items()} | {"encoder._ema": ema}
    assert read_config(import_content(content))["method"]["shared_with_teacher"] == SHARED


def test_v1_whose_whole_teacher_is_averaged(import_content: Import) -> None:
    folder = import_content(v1_text(copied=False, ema_transformer_layers_only=False))
    assert read_config(folder)["method"]["shared_with_teacher"] == []
    assert not any("averaged" in note for note in read_config(folder)["notes"])


@pytest.mark.parametrize("make", [v1_text, v2_text])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_classifier_gives_its_encoder_and_head(
    make: Callable[..., State], wrapped: bool, import_content: Import
) -> None:
    pretrained = make()
    content = classifier(pretrained, wrapped)
    folder = import_content(content)
    config = read_config(folder)
    assert config["source"]["layout"].endswith("text, fine-tuned")
    assert config["left_out"] == []
    recipe = node("d2v.nn.task_heads.TanhHead", width=32, num_classes=3, norm=False, dropout=0.0, eps=1e-6)
    assert config["head"] == {"recipe": recipe, "task": "single", "pool": "cls", "names": None}
    head = load_head(folder)
    assert head is not None
    for ours, theirs in (("hidden", "dense"), ("proj", "out_proj")):
        official = content["model"][f"classification_heads.sentence_classification_head.{theirs}.weight"]
        assert torch.equal(head.weights[f"{ours}.weight"], official)
    with torch.no_grad():
        ours = d2v.load(folder)(IDS).tokens
        torch.testing.assert_close(ours, d2v.load(import_content(pretrained, "pretrained"))(IDS).tokens)
    asked = any("masking of the pretraining is not in the file" in note for note in config["notes"])
    assert asked == (make is v1_text and not wrapped)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"out_proj.bias": None}, "classification_heads.sentence_classification_head.out_proj.bias is missing"),
        ({"dense.weight": (16, 32)}, r"dense.weight has the shape \[16, 32\] and not \[32, 32\]"),
        ({"out_proj.weight": (0, 32), "out_proj.bias": (0,)}, r"out_proj.weight has the shape \[0, 32\]"),
    ],
)
def test_a_classifier_that_ours_cannot_be_is_left_out(
    change: dict[str, Any], note: str, import_content: Import
) -> None:
    content = classifier(v1_text(), wrapped=False)
    for part, shape in change.items():
        name = f"classification_heads.sentence_classification_head.{part}"
        content["model"].pop(name)
        if shape is not None:
            content["model"][name] = torch.randn(shape)
    folder = import_content(content)
    config = read_config(folder)
    assert "head" not in config
    assert any(re.search(f"classifier .* is left out: .*{note}", told) for told in config["notes"])
    assert any(name.startswith("classification_heads.") for name in config["left_out"])


def test_of_several_classifiers_the_usual_one_is_taken(import_content: Import) -> None:
    content = classifier(v1_text(), wrapped=False)
    for name in [name for name in content["model"] if name.startswith("classification_heads.")]:
        content["model"][name.replace("sentence_classification_head", "another")] = torch.zeros(1)
    config = read_config(import_content(content))
    assert any("of its 2 classifiers sentence_classification_head" in note for note in config["notes"])
    assert config["left_out"][0].startswith("classification_heads.another.")
    content["cfg"]["model"]["pooler_activation_fn"] = "relu"
    assert "head" not in read_config(import_content(content, "other"))


@pytest.mark.parametrize(
    ("task", "masking", "tokens"),
    [
        ({"mask_prob": 0.5, "mask_multiple_length": 2}, {"mask_prob": 0.5, "span": 2}, (0.1, 0.1)),
        ({"mask_prob": 0.2, "random_token_prob": 0.3, "leave_unmasked_prob": 0}, {"mask_ratio": 0.2}, (0.3, 0)),
        ({"_name": "masked_lm"}, {"mask_ratio": 0.15}, (0.1, 0.1)),  # BERT's, the code's default
        ({"_name": "sentence_prediction"}, {"mask_prob": 0.35, "span": 4}, (0, 0)),
    ],
)
def test_masking_of_v1(
    task: State, masking: dict[str, float], tokens: tuple[float, float], import_content: Import
) -> None:
    method = read_config(import_content(v1_text(task=task)))["method"]
    expected = {**masking, "shared_by": None, "inside": False} if "span" in masking else masking
    assert method["masking"]["init_args"] == expected
    student = arguments(method["student"])
    assert (student["random_tokens"], student["unchanged_tokens"]) == tokens


def test_spans_of_v2(import_content: Import) -> None:
    folder = import_content(v2_text(text={"mask_length": 3, "mask_prob_adjust": 0.05}))
    masking = read_config(folder)["method"]["masking"]
    assert masking["class_path"].endswith("SpanMasking")
    assert masking["init_args"] == {"mask_ratio": 0.48, "span": 3, "adjust": 0.05}


def test_v1_without_settings_is_taken_for_the_published_one(import_content: Import) -> None:
    content = v1_text(width=64)
    del content["cfg"]
    folder = import_content(content)
    config = read_config(folder)
    assert config["method"]["student"]["trunk"]["num_heads"] == 1
    assert config["method"]["loss"]["init_args"] == {"kind": "smooth_l1", "beta": 4.0, "reduction": "sum"}
    assert config["method"]["targets"]["init_args"] == {
        "top_k": 2, "source": "ffn", "layer_norm": "layer", "mean_norm": None
    }  # fmt: skip
    assert config["ema"] == {"start": 0.999, "end": 0.9999, "anneal": 300_000}
    assert sum("published" in note for note in config["notes"]) == 2
    one_step(folder)


def test_odd_settings_are_told(import_content: Import) -> None:
    content = v1_text(
        head_layers=3, task={"mask_prob": 0.1, "mask_whole_words": True}, encoder={"layers": 5},
        transformer={"max_source_positions": 99},
    )  # fmt: skip
    config = read_config(import_content(content))
    notes = "\n".join(config["notes"])
    for words in (
        "head_layers is 3",
        "cfg.task.mask_whole_words is True",
        "cfg.model.transformer.encoder.layers says 5, the weights say 2",
        "max_source_positions says 99, the weights say 20",
    ):
        assert words in notes
    assert "encoder.regression_head.4.weight" in config["left_out"]

    content = v2_text(text={"dropout": 0.3}, norm_eps=1e-6)
    notes = "\n".join(read_config(import_content(content, "second"))["notes"])
    assert "norm_eps is 1e-06" in notes
    assert "modalities.text.dropout is 0.3" in notes


def with_tensor(content: State, **tensors: tuple[int, ...]) -> State:
    more = {name.replace("__", "."): torch.randn(shape) for name, shape in tensors.items()}
    return {**content, "model": {**content["model"], **more}}


def without(content: State, part: str) -> State:
    return {**content, "model": {name: value for name, value in content["model"].items() if part not in name}}


def broken() -> dict[str, tuple[State, str]]:
    output_norm = with_tensor(v1_text(), encoder__sentence_encoder__layer_norm__weight=(32,))
    prenet = with_tensor(v2_text(), modality_encoders__TEXT__context_encoder__norm__weight=(32,))
    sinusoidal = without(v1_text(), "embed_positions")
    few = v1_text()
    few["model"]["encoder.sentence_encoder.embed_positions.weight"] = torch.randn(2, 32)
    half = v1_text()
    del half["model"]["encoder._ema"]["layers.1.fc1.bias"]
    no_cfg = v2_text()
    del no_cfg["cfg"]
    return {
        "sinusoidal 1.0": (v1_text(encoder={"learned_pos": False}), "transformer.encoder.learned_pos is False"),
        "sinusoidal 2.0": (v2_text(text={"learned_pos": False}), "modalities.text.learned_pos is off"),
        "no positions": (sinusoidal, "positions.table is missing"),
        "no norm 1.0": (v1_text(transformer={"layernorm_embedding": False}), "layernorm_embedding is False"),
        "no norm 2.0": (v2_text(text={"layernorm_embedding": False}), "layernorm_embedding is off"),
        "no norm in the file": (without(v1_text(), "layernorm_embedding"), "front.input_norm.weight is missing"),
        "pre-norm": (v1_text(encoder={"normalize_before": True}), "normalize_before is True"),
        "pre-norm in the file": (output_norm, "normalize_before"),
        "pre-norm 2.0": (v2_text(layer_norm_first=True), "layer_norm_first"),
        "characters": (v1_text(transformer={"char_inputs": True}), "char_inputs is True"),
        "scaled 1.0": (v1_text(transformer={"no_scale_embedding": False}), "no_scale_embedding is False"),
        "scaled 2.0": (v2_text(text={"no_scale_embedding": False}), "no_scale_embedding is off"),
        "activation": (v1_text(transformer={"activation_fn": "relu"}), "activation_fn is 'relu'"),
        "prenet": (v2_text(text={"prenet_depth": 2}), "modalities.text.prenet_depth is on"),
        "prenet in the file": (prenet, "prenet_depth"),
        "alibi": (v2_text(text={"use_alibi_encoder": True}), "use_alibi_encoder"),
        "RoBERTa": (with_tensor(v1_text(), encoder__lm_head__dense__weight=(32, 32)), "such as RoBERTa"),
        "few positions": (few, "has 2 positions, of which the first 2 are unused"),
        "no embedding": (without(v2_text(), "embed_tokens"), "feature_extractor.embedding.weight is missing"),
        "no key": (without(v1_text(), "layers.1.self_attn.k_proj.bias"), "one is missing or odd"),
        "half a teacher": (half, "teacher.encoder.trunk.blocks.1.mlp.0.bias is missing"),
        "no settings": (no_cfg, "no cfg.model section"),
        "heads": (v2_text(num_heads=5), "width 32 is not a multiple of num_heads 5"),
        "text for a number": (v1_text(encoder={"attention_heads": "x"}), "cannot be understood: ValueError"),
        "text for a section": (v1_text(task={"mask_prob": "x", "mask_multiple_length": 1}), "cannot be built"),
        "shares": (v1_text(task={"mask_prob": 0.2, "random_token_prob": 2}), "random 2 and unchanged 0.1"),
    }


@pytest.mark.parametrize("name", broken())
def test_what_is_broken_is_refused(name: str, import_content: Import, tmp_path: Path) -> None:
    content, message = broken()[name]
    with pytest.raises(UserError, match=message) as refusal:
        import_content(content)
    assert str(refusal.value).startswith(str(tmp_path / "model.pt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt"]

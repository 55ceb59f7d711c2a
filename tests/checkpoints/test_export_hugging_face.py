"""`d2v export --format hf` against transformers: it loads the folder whole, and computes the same."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import classifier, linear_head, make_encoder, recogniser, run_export, save
from torch import Tensor

import d2v
from d2v.checkpoints.head_files import load_head
from d2v.checkpoints.load import load
from d2v.commands import import_
from d2v.errors import UserError
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.model.encoder import Encoder, mean_of_tokens

transformers = pytest.importorskip("transformers")

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "A", "B", "'"]
TEXTS = ["a bc", "  a\tb\n\nc ", "naïve 日本語 🙂 \u200b\ufeffe\u0301", "<s> <mask> </s>", "", "A" * 50, "\x00 \u00a0x"]


def officially(folder: Path, kind: str) -> Any:
    """The model of transformers, with no key missing or left over."""
    model, info = getattr(transformers, kind).from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), info
    assert model.config.architectures == [kind]
    return model.eval()


def assert_close(ours: Tensor, official: Tensor) -> None:
    torch.testing.assert_close(ours, official, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def assert_same_features(encoder: Encoder, model: Any, x: Tensor, mask: Tensor | None = None) -> None:
    theirs = model(x, attention_mask=mask) if mask is not None else model(x)
    ours = encoder(x, None if mask is None else mask == 0)
    valid = torch.ones(x.shape[0], ours.tokens.shape[1], dtype=torch.bool) if mask is None else mask.bool()
    assert_close(ours.tokens[valid], theirs.last_hidden_state[:, encoder.front.num_cls :][valid])


@pytest.mark.parametrize("changes", [{}, {"masked_input": "drop", "position_layers": 1}])
def test_speech(tmp_path: Path, changes: dict[str, Any]) -> None:
    encoder = make_encoder("speech1", **changes)
    folder = run_export(save(tmp_path / "a.ckpt", encoder), "hf", tmp_path / "hf")
    assert_same_features(encoder, officially(folder, "Data2VecAudioModel"), torch.randn(2, 555))


@pytest.mark.parametrize("changes", [{}, {"masked_input": "drop", "eps": 1e-12}])
def test_text_without_a_tokenizer(tmp_path: Path, changes: dict[str, Any]) -> None:
    encoder = make_encoder("text1", **changes)
    folder = run_export(save(tmp_path / "a.ckpt", encoder), "hf", tmp_path / "hf")
    mask = torch.ones(3, 30, dtype=torch.int64)
    mask[1, 9:] = mask[2, 1:] = 0
    ids = torch.randint(4, 40, (3, 30)).where(mask.bool(), 1)
    assert_same_features(encoder, officially(folder, "Data2VecTextModel"), ids, mask)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 16},
        {"image_size": 16, "relative_bias": "per_block", "positions": "learned", "layer_scale": None, "key_bias": True},
        {"relative_bias": None, "positions": "sincos", "masked_input": "drop", "output_norm": False, "image_size": 16},
    ],
)
def test_vision(tmp_path: Path, changes: dict[str, Any]) -> None:
    encoder = make_encoder("vision1", **changes)
    folder = run_export(save(tmp_path / "a.ckpt", encoder), "hf", tmp_path / "hf")
    size = encoder.recipe["front"]["init_args"]["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    assert_same_features(encoder, officially(folder, "Data2VecVisionModel"), torch.randn(2, 3, height, width))
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(torch.zeros(3, 40, 50, dtype=torch.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, height, width)
    assert_close(pixels[0, :, 0, 0], -torch.tensor([0.485 / 0.229, 0.456 / 0.224, 0.406 / 0.225]))


def test_teacher(tmp_path: Path) -> None:
    student, teacher = (make_encoder("vision1", image_size=16) for _ in range(2))
    for parameter in teacher.parameters():
        parameter.data.mul_(0.5)
    checkpoint = save(tmp_path / "a.ckpt", student, teacher=teacher)
    folder = run_export(checkpoint, "hf", tmp_path / "hf", weights="teacher")
    assert_same_features(teacher, officially(folder, "Data2VecVisionModel"), torch.randn(1, 3, 16, 16))


def test_recogniser(tmp_path: Path) -> None:
    encoder, head = make_encoder("speech1"), linear_head(len(SYMBOLS))
    checkpoint = save(tmp_path / "a.ckpt", encoder, head, **recogniser(SYMBOLS))
    folder = run_export(checkpoint, "hf", tmp_path / "hf")
    x = torch.randn(2, 400)
    model = officially(folder, "Data2VecAudioForCTC")
    with torch.no_grad():
        ours = torch.nn.functional.linear(encoder(x).tokens, head["proj.weight"], head["proj.bias"])
        assert_close(ours, model(x).logits)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    assert type(processor).__name__ == "Wav2Vec2Processor"
    assert processor.feature_extractor.sampling_rate == 16_000
    tokenizer = processor.tokenizer
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(len(SYMBOLS))] == SYMBOLS
    assert (len(tokenizer), tokenizer.pad_token_id) == (len(SYMBOLS), 0)
    assert processor.decode([0, 5, 5, 0, 5, 4, 4, 6, 0, 7, 6, 0]) == "AA B'B"
    assert tokenizer("AB A").input_ids == [5, 6, 4, 5]
    again = import_folder(folder)
    found = load_head(again)
    assert torch.equal(found.weights["proj.weight"], head["proj.weight"])
    assert torch.equal(found.weights["proj.bias"], head["proj.bias"])
    assert list(found.names) == SYMBOLS


def import_folder(folder: Path) -> Path:
    output = folder.with_name(f"{folder.name}_imported")
    parser = argparse.ArgumentParser()
    import_.add_arguments(parser)
    import_.run(parser.parse_args([str(folder), "--output", str(output)]))
    return output


@torch.no_grad()
@pytest.mark.parametrize("task", ["single", "multi", "regression"])
def test_speech_classifier(tmp_path: Path, task: str) -> None:
    encoder, head = make_encoder("speech1"), linear_head(3)
    settings = classifier(["x", "y", "z"], head, "mean", task, score_scale=5.0 if task == "regression" else 1.0)
    checkpoint = save(tmp_path / "a.ckpt", encoder, head, **settings)
    model = officially(run_export(checkpoint, "hf", tmp_path / "hf"), "Data2VecAudioForSequenceClassification")
    x = torch.randn(2, 400)
    scores = torch.nn.functional.linear(mean_of_tokens(encoder(x).tokens), head["proj.weight"], head["proj.bias"])
    assert_close(scores * settings["head"]["score_scale"], model(x).logits)
    assert model.config.id2label == {0: "x", 1: "y", 2: "z"}
    assert model.config.problem_type.startswith(task)


@torch.no_grad()
def test_text_classifier_with_its_tokenizer(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.train(["abc abc naïve", "日本語 bc"], vocab_size=270)
    encoder = make_encoder("text1", vocab_size=len(tokenizer), max_positions=200)
    head = linear_head(2, tanh=True)
    assets = {"tokenizer.json": tokenizer.to_json()}
    checkpoint = save(tmp_path / "a.ckpt", encoder, head, assets=assets, **classifier(["no", "yes"], head, "cls"))
    folder = run_export(checkpoint, "hf", tmp_path / "hf")
    model = officially(folder, "Data2VecTextForSequenceClassification")
    official = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        ours = tokenizer.sequence(tokenizer.encode(text), max_length=200)
        assert official(text).input_ids == ours, text
        pair = tokenizer.sequence(tokenizer.encode(text), tokenizer.encode("abc"), max_length=200)
        assert official(text, "abc").input_ids == pair, text
    batch = official(TEXTS[:3], padding=True, return_tensors="pt")
    cls = encoder(batch["input_ids"], batch["attention_mask"] == 0).cls[:, 0]
    hidden = torch.nn.functional.linear(cls, head["hidden.weight"], head["hidden.bias"]).tanh()
    assert_close(torch.nn.functional.linear(hidden, head["proj.weight"], head["proj.bias"]), model(**batch).logits)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_picture_classifier(tmp_path: Path, pool: str) -> None:
    mean = pool == "mean"
    encoder, head = make_encoder("vision1", image_size=16, output_norm=not mean), linear_head(3, norm=mean)
    checkpoint = save(tmp_path / "a.ckpt", encoder, head, **classifier(["x", "y", "z"], head, pool))
    model = officially(run_export(checkpoint, "hf", tmp_path / "hf"), "Data2VecVisionForImageClassification")
    x = torch.randn(2, 3, 16, 16)
    features = encoder(x).tokens.mean(1) if mean else encoder(x).cls[:, 0]
    if mean:
        features = torch.nn.functional.layer_norm(features, (16,), head["norm.weight"], head["norm.bias"], 1e-6)
    assert_close(torch.nn.functional.linear(features, head["proj.weight"], head["proj.bias"]), model(x).logits)


@pytest.mark.parametrize(
    ("kind", "changes", "head", "message"),
    [
        ("speech1", {"prenet_depth": 1}, None, "prenet"),
        ("speech1", {"num_cls": 2}, None, "2 CLS tokens"),
        ("speech2", {"norm_first": True}, None, "ALiBi.*pre-norm.*Nor can d2v's own.*norm_first is True"),
        ("text2", {"layer_scale": 0.1}, None, "ALiBi.*max_positions.*layer_scale is 0.1"),
        ("vision2", {"positions": "learned"}, None, "post-norm.*positions is 'learned'"),
        ("speech1", {"eps": 1e-6}, None, "eps 1e-06"),
        ("speech1", {"norm_first": True}, None, "pre-norm"),
        ("speech1", {}, ("mean", {"norm": True}), "has a norm"),
        ("speech1", {}, ("mean", {"tanh": True}), "has a tanh"),
        ("vision1", {}, None, "not square"),
        ("vision1", {"num_cls": 2}, None, "2 CLS"),
        ("vision1", {"output_eps": 1e-3}, None, "eps of its own"),
        ("vision1", {}, ("mean", {"norm": True}), "output_norm: false"),
        ("vision1", {"output_norm": False, "image_size": 16}, ("mean", {}), "without a norm"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, kind: str, changes: dict[str, Any], head: tuple[str, dict] | None, message: str
) -> None:
    ours: dict[str, Any] = {}
    if head is not None:
        weights = linear_head(2, **head[1])
        ours = {"head_weights": weights, **classifier(["x", "y"], weights, head[0])}
    checkpoint = save(tmp_path / "a.ckpt", make_encoder(kind, **changes), **ours)
    with pytest.raises(UserError, match=f"--format hf: .*{message}.*--format safetensors, onnx and torch can"):
        run_export(checkpoint, "hf", tmp_path / "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("kind", ["speech1", "text1", "vision1"])
def test_there_and_back(tmp_path: Path, kind: str) -> None:
    """Import, export and import again: the encoder's tensors are the same, bit for bit."""
    encoder = make_encoder(kind, **({"image_size": 16} if kind == "vision1" else {}))
    folder = run_export(save(tmp_path / "a.ckpt", encoder), "hf", tmp_path / "hf")
    again = load(import_folder(folder))
    expected = encoder.state_dict()
    assert again.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
    second = run_export(tmp_path / "hf_imported", "hf", tmp_path / "hf2")
    configs = [json.loads((path / "config.json").read_text()) for path in (folder, second)]
    assert configs[0] == configs[1] | {key: configs[0][key] for key in configs[0] if "drop" in key}
    assert (second / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert d2v.load(tmp_path / "hf_imported").recipe["front"]["class_path"] == encoder.recipe["front"]["class_path"]

"""Against transformers: folders of Data2VecAudio with random weights give the same features and logits here."""

import argparse
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import d2v
from d2v.checkpoints.folder import read_config
from d2v.checkpoints.head_files import load_head
from d2v.commands import import_
from d2v.errors import UserError

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 9,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "conv_dim": (16, 24, 24),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 3,
    "num_conv_pos_embedding_groups": 4,
    "conv_pos_kernel_size": 7,
}


@torch.no_grad()
def random_model(kind: str, **settings: Any) -> Any:
    """A model whose every tensor is random: biases and norms are built as zeros and ones, which would hide mistakes."""
    torch.manual_seed(5)
    model = getattr(transformers, kind)(transformers.Data2VecAudioConfig(**{**SMALL, **settings})).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def import_folder(source: Path) -> Path:
    folder = source.with_name(f"{source.name}_imported")
    import_.run(argparse.Namespace(source=source, output=folder, dict=None, classes=None, tokenizer=None))
    return folder


@pytest.mark.parametrize("save_as", ["model.safetensors", "pytorch_model.bin"])
def test_features_and_layers(tmp_path: Path, save_as: str) -> None:
    model = random_model("Data2VecAudioModel")
    source = tmp_path / "model"
    model.save_pretrained(source)
    if save_as.endswith(".bin"):
        (source / "model.safetensors").unlink()
        torch.save(model.state_dict(), source / save_as)
    waveform = torch.randn(2, 1600)
    encoder = d2v.load(import_folder(source))
    with torch.no_grad():
        official = model(waveform, output_hidden_states=True)
        ours = encoder(waveform)
    torch.testing.assert_close(ours.tokens, official.last_hidden_state, atol=1e-5, rtol=1e-5)
    for layer, official_layer in zip(ours.layers, official.hidden_states[1:], strict=True):
        torch.testing.assert_close(layer, official_layer, atol=1e-5, rtol=1e-5)


def test_one_layer_of_positions_and_other_widths(tmp_path: Path) -> None:
    settings = {"num_conv_pos_embeddings": 1, "num_hidden_layers": 1, "hidden_size": 32, "layerdrop": 0.0}
    model = random_model("Data2VecAudioModel", **settings)
    model.save_pretrained(tmp_path / "model")
    waveform = torch.randn(1, 777)
    encoder = d2v.load(import_folder(tmp_path / "model"))
    with torch.no_grad():
        torch.testing.assert_close(encoder(waveform).tokens, model(waveform).last_hidden_state, atol=1e-5, rtol=1e-5)


VOCABULARY = {symbol: number for number, symbol in enumerate(["<pad>", *"ABCDEFGH"])}


@pytest.mark.parametrize(
    ("settings", "vocabulary", "message"),
    [
        ({"num_attention_heads": "x"}, VOCABULARY, "cannot be understood|cannot be built"),
        ({"num_attention_heads": [4]}, VOCABULARY, "cannot be understood|cannot be built"),
        ({"pad_token_id": [0]}, VOCABULARY, "settings cannot be understood: TypeError"),
        ({"pad_token_id": 9}, VOCABULARY, "config.json: pad_token_id is 9, and vocab.json has no such symbol"),
        ({}, {symbol: [number] for symbol, number in VOCABULARY.items()}, "settings cannot be understood: TypeError"),
        ({}, {"A": 0}, "vocab.json: its 1 symbols do not number the 9 outputs"),
        ({"pad_token_id": None}, VOCABULARY, None),
    ],
)
def test_odd_settings_of_a_recogniser(
    tmp_path: Path, settings: dict[str, Any], vocabulary: dict[str, Any], message: str | None
) -> None:
    source = tmp_path / "model"
    random_model("Data2VecAudioForCTC").save_pretrained(source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **settings}))
    (source / "vocab.json").write_text(json.dumps(vocabulary))
    with nullcontext() if message is None else pytest.raises(UserError, match=f"^{source}: .*{message}"):
        import_folder(source)


@pytest.mark.parametrize("blank", [0, 4])
def test_logits_of_a_recogniser(tmp_path: Path, blank: int) -> None:
    model = random_model("Data2VecAudioForCTC", pad_token_id=blank)
    model.save_pretrained(tmp_path / "model")
    vocabulary = {"<s>": 1, "</s>": 2, "[UNK]": 3, "|": 5, "A": 6, "B": 7, "'": 8}
    vocabulary |= {"<pad>": 0, "C": 4} if blank == 0 else {"C": 0, "<pad>": 4}
    (tmp_path / "model" / "vocab.json").write_text(json.dumps(vocabulary))
    folder = import_folder(tmp_path / "model")
    head = load_head(folder)
    assert head is not None
    symbols = head.names
    assert (symbols[0], set(symbols)) == ("<pad>", {"<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C", "'"})
    waveform = torch.randn(2, 1600)
    with torch.no_grad():
        ours = torch.nn.functional.linear(
            d2v.load(folder)(waveform).tokens, head.weights["proj.weight"], head.weights["proj.bias"]
        )
        official = model(waveform).logits
    order = [vocabulary["[UNK]" if symbol == "<unk>" else symbol] for symbol in symbols]
    torch.testing.assert_close(ours, official[..., order], atol=1e-5, rtol=1e-5)


def test_logits_of_a_classifier(tmp_path: Path) -> None:
    """Its two linear layers with nothing between them are one."""
    model = random_model("Data2VecAudioForSequenceClassification", num_labels=3, classifier_proj_size=20)
    model.save_pretrained(tmp_path / "model")
    folder = import_folder(tmp_path / "model")
    head = load_head(folder)
    assert head is not None
    assert (head.kind, head.pool, head.names, sorted(head.weights)) == (
        "linear", "mean", None, ["proj.bias", "proj.weight"],
    )  # fmt: skip
    assert read_config(folder)["left_out"] == []
    waveform = torch.randn(2, 1600)
    with torch.no_grad():
        ours = torch.nn.functional.linear(
            d2v.load(folder).embed(waveform), head.weights["proj.weight"], head.weights["proj.bias"]
        )
        torch.testing.assert_close(ours, model(waveform).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Data2VecAudioForSequenceClassification", {"use_weighted_layer_sum": True}),
        ("Data2VecAudioForAudioFrameClassification", {}),
    ],
)
def test_a_head_that_ours_cannot_be_is_left_out(tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    model = random_model(kind, **settings)
    model.save_pretrained(tmp_path / "model")
    folder = import_folder(tmp_path / "model")
    assert load_head(folder) is None
    assert "classifier.weight" in read_config(folder)["left_out"]

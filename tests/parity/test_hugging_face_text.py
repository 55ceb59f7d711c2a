"""Against transformers: folders of Data2VecText with random weights give the same features here."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from encoders import arguments, load_method, step
from torch import Tensor

import d2v
from d2v.checkpoints.folder import read_config
from d2v.checkpoints.head_files import load_head
from d2v.commands import import_
from d2v.errors import UserError
from d2v.types import Batch

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 60,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 34,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
BASE = {**SMALL, "vocab_size": 500, "hidden_size": 768, "num_hidden_layers": 4, "num_attention_heads": 12}
BASE |= {"intermediate_size": 3072, "max_position_embeddings": 514}
"""The published one has 50,265 types and 12 layers, with which it holds as well, and slowly."""


@torch.no_grad()
def random_model(kind: str, settings: dict[str, Any], noise: float = 0.1) -> Any:
    """A model whose every tensor is random: biases and norms are built as zeros and ones, which would hide mistakes."""
    torch.manual_seed(5)
    model = getattr(transformers, kind)(transformers.Data2VecTextConfig(**settings)).eval()
    for parameter in model.parameters():
        parameter.add_(noise * torch.randn_like(parameter))
    return model


def import_folder(source: Path) -> Path:
    folder = source.with_name(f"{source.name}_imported")
    import_.run(argparse.Namespace(source=source, output=folder, dict=None, classes=None, tokenizer=None))
    return folder


def padded_ids(vocab_size: int, lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Ids [B, N], and what is padding."""
    ids = torch.randint(4, vocab_size, (len(lengths), max(lengths)))
    ids[:, 0] = 0
    padding = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    return ids.masked_fill(padding, 1), padding


def assert_same_features(model: Any, folder: Path, lengths: tuple[int, ...]) -> None:
    encoder = d2v.load(folder)
    ids, padding = padded_ids(model.config.vocab_size, lengths)
    official = model.base_model if hasattr(model, "classifier") else model
    with torch.no_grad():
        theirs = official(ids, attention_mask=(~padding).long(), output_hidden_states=True)
        ours = encoder(ids, padding if padding.any() else None)
    for layer, official_layer in zip(ours.layers, theirs.hidden_states[1:], strict=True):
        torch.testing.assert_close(layer[~padding], official_layer[~padding], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.tokens[~padding], theirs.last_hidden_state[~padding], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("save_as", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("lengths", [(20, 20), (32, 7, 1)])
def test_features_and_layers(tmp_path: Path, save_as: str, lengths: tuple[int, ...]) -> None:
    model = random_model("Data2VecTextModel", SMALL)
    source = tmp_path / "model"
    model.save_pretrained(source)
    if save_as.endswith(".bin"):
        (source / "model.safetensors").unlink()
        torch.save(model.state_dict(), source / save_as)
    assert_same_features(model, import_folder(source), lengths)


def test_base_size(tmp_path: Path) -> None:
    model = random_model("Data2VecTextModel", BASE, noise=0.02)  # as large as the weights are at first
    model.save_pretrained(tmp_path / "model")
    folder = import_folder(tmp_path / "model")
    assert_same_features(model, folder, (16, 5))
    student = arguments(read_config(folder)["method"]["student"])
    assert (student["max_positions"], student["width"], student["depth"], student["num_heads"]) == (512, 768, 4, 12)


def test_other_settings(tmp_path: Path) -> None:
    """Of two types of tokens the first is used, and padding may have another id."""
    settings = {**SMALL, "type_vocab_size": 2, "pad_token_id": 3, "layer_norm_eps": 1e-12, "num_hidden_layers": 1}
    model = random_model("Data2VecTextModel", settings)
    model.save_pretrained(tmp_path / "model")
    folder = import_folder(tmp_path / "model")
    assert d2v.load(folder).front.max_positions == 30
    assert any("type 0" in note for note in read_config(folder)["notes"])
    ids = torch.randint(4, 60, (2, 30))
    with torch.no_grad():
        ours, theirs = d2v.load(folder)(ids).tokens, model(ids).last_hidden_state
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("labels", [{0: "no", 1: "yes"}, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, {0: "LABEL_0"}])
def test_a_classifier_gives_its_encoder_and_head(tmp_path: Path, labels: dict[int, str]) -> None:
    model = random_model("Data2VecTextForSequenceClassification", {**SMALL, "id2label": labels})
    model.save_pretrained(tmp_path / "model")
    folder = import_folder(tmp_path / "model")
    config, head = read_config(folder), load_head(folder)
    assert head is not None
    assert config["left_out"] == []
    assert config["source"]["layout"].endswith("fine-tuned")
    assert (head.kind, head.pool, head.task) == ("tanh", "cls", "regression" if len(labels) == 1 else "single")
    assert head.names == (("no", "yes") if len(labels) == 2 else None)
    assert_same_features(model.base_model, folder, (12, 5))
    ids, _ = padded_ids(60, (12, 12))
    with torch.no_grad():
        x = F.linear(
            d2v.load(folder).embed(ids, pool="cls"), head.weights["hidden.weight"], head.weights["hidden.bias"]
        )
        ours = F.linear(x.tanh(), head.weights["proj.weight"], head.weights["proj.bias"])
        torch.testing.assert_close(ours, model(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_language_model_gives_its_encoder(tmp_path: Path) -> None:
    model = random_model("Data2VecTextForMaskedLM", SMALL)
    model.save_pretrained(tmp_path / "model")
    folder = import_folder(tmp_path / "model")
    assert "lm_head.dense.weight" in read_config(folder)["left_out"]
    assert "fine-tuned" not in read_config(folder)["source"]["layout"]
    assert_same_features(model.base_model, folder, (12, 5))


def test_an_imported_folder_trains(tmp_path: Path) -> None:
    random_model("Data2VecTextModel", SMALL).save_pretrained(tmp_path / "model")
    method = load_method(import_folder(tmp_path / "model"))
    ids, padding = padded_ids(60, (30, 20))
    loss = step(method, Batch(ids, torch.arange(2), torch.zeros(2, dtype=torch.int64), padding_mask=padding)).loss
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "config.json: position_embedding_type is 'relative_key'"),
        ({"hidden_act": "relu"}, "config.json: hidden_act is 'relu'"),
        ({"is_decoder": True}, "config.json: is_decoder is True"),
        ({"num_attention_heads": "x"}, "cannot be understood|cannot be built"),
        ({"num_attention_heads": 5}, "width 48 is not a multiple of num_heads 5"),
        ({"pad_token_id": 99}, "has 34 positions, of which the first 100 are unused"),
    ],
)
def test_what_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    source = tmp_path / "model"
    random_model("Data2VecTextModel", SMALL).save_pretrained(source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **settings}))
    with pytest.raises(UserError, match=f"^{source}: .*{message}"):
        import_folder(source)

"""Against transformers: folders of Data2VecVision with random weights give the same features and logits here."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from encoders import load_method, step

import d2v
from d2v.checkpoints.folder import read_config
from d2v.checkpoints.head_files import load_head
from d2v.commands import export, import_
from d2v.errors import UserError
from d2v.types import Batch

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "image_size": 32,
    "patch_size": 8,
    "use_mask_token": True,
    "use_relative_position_bias": True,
}


@torch.no_grad()
def random_model(kind: str = "Data2VecVisionModel", **settings: Any) -> Any:
    """A model whose every tensor is random: biases and norms are built as zeros and ones, which would hide mistakes."""
    torch.manual_seed(5)
    config = transformers.Data2VecVisionConfig(**{**SMALL, **settings}, attn_implementation="eager")
    model = getattr(transformers, kind)(config).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def import_folder(source: Path) -> Path:
    folder = source.with_name(f"{source.name}_imported")
    import_.run(argparse.Namespace(source=source, output=folder, dict=None, classes=None, tokenizer=None))
    return folder


@torch.no_grad()
def assert_same_features(model: Any, folder: Path) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    official = model(pixels, output_hidden_states=True)
    ours = d2v.load(folder)(pixels)
    for layer, official_layer in zip(ours.layers, official.hidden_states[1:], strict=True):
        torch.testing.assert_close(layer, official_layer[:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.tokens, official.last_hidden_state[:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.cls, official.last_hidden_state[:, :1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_relative_position_bias": False, "use_shared_relative_position_bias": True},
        {"use_shared_relative_position_bias": True},  # both, which add up
        {"use_relative_position_bias": False, "use_absolute_position_embeddings": True, "use_mask_token": False},
        {"use_mean_pooling": False, "layer_scale_init_value": 0.0, "layer_norm_eps": 1e-6},
    ],
)
def test_features_and_layers(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = random_model(**settings)
    model.save_pretrained(tmp_path / "model")
    folder = import_folder(tmp_path / "model")
    assert_same_features(model, folder)
    assert read_config(folder)["left_out"] == []


@pytest.mark.parametrize("save_as", ["safetensors", "bin"])
def test_weights_in_parts(tmp_path: Path, save_as: str) -> None:
    model, source = random_model(), tmp_path / "model"
    model.save_pretrained(source, max_shard_size="40KB")
    index = source / "model.safetensors.index.json"
    parts = json.loads(index.read_text())["weight_map"]
    assert len(set(parts.values())) > 2
    if save_as == "bin":
        state = model.state_dict()
        renamed = {
            name: part.replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
            for name, part in parts.items()
        }
        for part in set(renamed.values()):
            torch.save({name: state[name] for name in renamed if renamed[name] == part}, source / part)
        (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": renamed}))
        for file in [index, *source.glob("*.safetensors")]:
            file.unlink()
        parts = renamed
    folder = import_folder(source)
    assert_same_features(model, folder)
    assert set(read_config(folder)["source"]["files"]) == set(parts.values())
    assert all(part in (folder / "README.md").read_text() for part in parts.values())


def test_an_index_that_leads_elsewhere_or_nowhere(tmp_path: Path) -> None:
    random_model().save_pretrained(tmp_path / "model", max_shard_size="40KB")
    index = tmp_path / "model" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    part = next(iter(content["weight_map"].values()))
    for name, message in (("../model/" + part, "names ../model/"), ("absent.bin", "absent.bin is missing")):
        index.write_text(json.dumps({"weight_map": {**content["weight_map"], "x": name}}))
        with pytest.raises(UserError, match=message):
            import_folder(tmp_path / "model")
    index.write_text("{}")
    with pytest.raises(UserError, match="has no weight_map"):
        import_folder(tmp_path / "model")


@torch.no_grad()
def logits(folder: Path, pixels: torch.Tensor) -> torch.Tensor:
    head = load_head(folder)
    assert head is not None
    encoder = d2v.load(folder)
    x = encoder.embed(pixels, pool=head.pool)
    if "norm.weight" in head.weights:
        eps = encoder.trunk.eps
        x = F.layer_norm(x, x.shape[-1:], head.weights["norm.weight"], head.weights["norm.bias"], eps)
    return F.linear(x, head.weights["proj.weight"], head.weights["proj.bias"])


@pytest.mark.parametrize("mean", [True, False])
def test_logits_of_a_classifier(tmp_path: Path, mean: bool) -> None:
    names = {0: "tench", 1: "shark, white", 2: "hen"}
    model = random_model("Data2VecVisionForImageClassification", use_mean_pooling=mean, id2label=names)
    model.save_pretrained(tmp_path / "model")
    folder = import_folder(tmp_path / "model")
    head = load_head(folder)
    assert head is not None
    assert (head.kind, head.pool, head.names, head.task) == (
        "linear", "mean" if mean else "cls", ("tench", "shark, white", "hen"), "single",
    )  # fmt: skip
    config = read_config(folder)
    assert config["left_out"] == []
    assert config["head"]["recipe"]["init_args"]["norm"] is mean
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        official = model(pixels).logits
    torch.testing.assert_close(logits(folder, pixels), official, atol=1e-5, rtol=1e-5)


def test_segmentation_gives_its_encoder(tmp_path: Path) -> None:
    model = random_model("Data2VecVisionForSemanticSegmentation", out_indices=[0, 1, 2, 2], num_labels=4)
    model.save_pretrained(tmp_path / "model")
    folder = import_folder(tmp_path / "model")
    assert_same_features(model.data2vec_vision, folder)
    config = read_config(folder)
    assert config["source"]["layout"].endswith("fine-tuned for segmentation")
    assert "decode_head.classifier.weight" in config["left_out"]
    assert load_head(folder) is None


def test_an_imported_folder_trains(tmp_path: Path) -> None:
    random_model(use_mean_pooling=False).save_pretrained(tmp_path / "model")
    method = load_method(import_folder(tmp_path / "model"))
    loss = step(method, Batch(torch.randn(2, 3, 32, 32), torch.arange(2), torch.zeros(2, dtype=torch.int64))).loss
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_act": "relu"}, "config.json: hidden_act is 'relu'"),
        ({"num_attention_heads": 5}, "width 48 is not a multiple of num_heads 5|do not fit"),
        ({"layer_norm_eps": "x"}, "cannot be understood|cannot be built"),
        ({"image_size": "large"}, "cannot be understood"),
    ],
)
def test_what_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    source = tmp_path / "model"
    random_model().save_pretrained(source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **settings}))
    with pytest.raises(UserError, match=f"^{source}: .*({message})"):
        import_folder(source)


def test_pixels_are_normalised_as_the_processor_did(tmp_path: Path) -> None:
    settings = {"use_relative_position_bias": False, "use_shared_relative_position_bias": True}
    random_model(**settings, use_mean_pooling=False).save_pretrained(tmp_path / "model")
    processor = transformers.BeitImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.1, 0.2, 0.3])
    processor.save_pretrained(tmp_path / "model")
    folder = import_folder(tmp_path / "model")
    assert json.loads(d2v.load(folder).assets["preprocessor_config.json"])["image_mean"] == [0.4, 0.5, 0.6]
    arguments = {"weights": None, "push": None, "modality": None, "checkpoint": str(folder), "format": "hf"}
    export.run(argparse.Namespace(**arguments, output=tmp_path / "again"))
    again = transformers.AutoImageProcessor.from_pretrained(tmp_path / "again")
    assert (list(again.image_mean), list(again.image_std)) == ([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])

"""Of a repository of the hub one model is fetched, and what goes with it."""

from pathlib import Path

import pytest
import torch
from hub import files_in, serve
from speech_checkpoints import v2_audio

import d2v
from d2v.checkpoints.hub import local_path
from d2v.errors import UserError

BESIDE = ["README.md", "config.json", "config.yaml", "dict.ltr.txt", "tokens.txt"]
CODE = ["modeling.py", "training_args.bin", "optimizer.pt", "flax_model.msgpack", "data/train.parquet"]


def repository(folder: Path, *names: str) -> Path:
    for name in (*names, *BESIDE, *CODE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("there", "place", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin"], ".", ["model.safetensors"]),
        (["model.safetensors", "head.safetensors"], ".", ["head.safetensors", "model.safetensors"]),
        (["pytorch_model.bin", "other.safetensors"], ".", ["pytorch_model.bin"]),
        (["pytorch_model.bin", "model.pt"], ".", ["pytorch_model.bin"]),
        (["model.pt", "sub/other.pt"], "model.pt", ["model.pt"]),
        (["esp.safetensors", "esp.pt"], "esp.safetensors", ["esp.safetensors"]),
        (
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            ".",
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
        ),
    ],
)
def test_what_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: list[str], place: str, weights: list[str]
) -> None:
    serve(monkeypatch, repository(tmp_path / "hub", *there), tmp_path / "cache")
    assert local_path("hf://me/model") == tmp_path / "cache" / place
    assert files_in(tmp_path / "cache") == sorted([*weights, *BESIDE])


def test_one_of_several_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = repository(tmp_path / "hub", "base.pt", "large.pt", "tuned/model.safetensors", "tuned/config.json")
    serve(monkeypatch, folder, tmp_path / "cache")
    message = (
        r"^hf://me/model@v2: does not say which model; give one of hf://me/model@v2/base.pt, hf://me/model@v2/large.pt$"
    )
    with pytest.raises(UserError, match=message):
        local_path("hf://me/model@v2")
    assert local_path("hf://me/model@v2/large.pt") == tmp_path / "cache/large.pt"
    assert "base.pt" not in files_in(tmp_path / "cache")
    assert local_path("hf://me/model/tuned") == tmp_path / "cache/tuned"
    with pytest.raises(UserError, match=r"tiny.pt: does not say which model; give one of hf://me/model/base.pt"):
        local_path("hf://me/model/tiny.pt")
    serve(monkeypatch, repository(tmp_path / "empty"), tmp_path / "cache")
    with pytest.raises(UserError, match=r"hf://me/model: holds no weights \(.safetensors, .bin, .pt, .pth\)"):
        local_path("hf://me/model")


def test_what_was_fetched_serves_without_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = serve(monkeypatch, repository(tmp_path / "hub", "model.pt"), tmp_path / "cache")
    hub.connected = False
    with pytest.raises(UserError, match=r"^hf://me/model: cannot be downloaded \(no connection\)"):
        local_path("hf://me/model")
    hub.connected = True
    local_path("hf://me/model")
    hub.connected = False
    assert local_path("hf://me/model") == tmp_path / "cache/model.pt"
    with pytest.raises(UserError, match=r"^hf://me/model/large.pt: cannot be downloaded \(no connection\)"):
        local_path("hf://me/model/large.pt")
    assert hub.waited == [30, 3, 30], "only who has a copy is not kept waiting"


def test_features_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file of fairseq's on the hub is loaded as it is; the second time it is not imported again."""
    (tmp_path / "hub").mkdir()
    torch.manual_seed(0)
    torch.save(v2_audio(), tmp_path / "hub/model.pt")
    serve(monkeypatch, tmp_path / "hub", tmp_path / "cache")
    d2v.import_checkpoint(tmp_path / "hub/model.pt", tmp_path / "imported")
    wave = torch.randn(1, 400)
    with torch.no_grad():
        expected = d2v.load(tmp_path / "imported")(wave).tokens
        assert torch.equal(d2v.load("hf://me/model")(wave).tokens, expected)
        (note,) = caplog.messages
        assert "fairseq data2vec 2.0 speech; licence: MIT" in note
        assert not torch.equal(d2v.load("hf://me/model", weights="teacher")(wave).tokens, expected)
    assert len(caplog.messages) == 1, "imported once"
    torch.save(v2_audio(), tmp_path / "cache/model.pt")
    with torch.no_grad():
        assert not torch.equal(d2v.load(tmp_path / "cache/model.pt")(wave).tokens, expected), "a new file is read anew"

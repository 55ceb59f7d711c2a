"""The Hugging Face hub: only where the user names it, and replaced here at huggingface_hub's own functions."""

import argparse
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from exporting import make_encoder, run_export, save
from hub import serve

import d2v
from d2v.commands import import_
from d2v.errors import UserError


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects to anything fails."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub, "model_info", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub, "create_repo", refuse)
    monkeypatch.setattr(huggingface_hub, "upload_folder", refuse)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(tmp_path / "a.ckpt", make_encoder("vision1", image_size=16))


def test_load_by_its_address(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = serve(monkeypatch, run_export(checkpoint, "safetensors", tmp_path / "ours"), tmp_path / "cache")
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(d2v.load("hf://me/model@v1.0")(x).tokens, d2v.load(checkpoint)(x).tokens)
    d2v.load(Path("hf://me/model"))
    assert hub.asked == [("me/model", "v1.0"), ("me/model", None)]
    for wrong in ("hf://model", "hf://a/", "hf://a/b@"):
        with pytest.raises(UserError, match=f"{wrong}: an address of the hub is hf://owner/name"):
            d2v.load(wrong)


def test_a_model_of_transformers(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, run_export(checkpoint, "hf", tmp_path / "theirs"), tmp_path / "cache")
    assert d2v.load("hf://me/model").width == 16
    parser = argparse.ArgumentParser()
    import_.add_arguments(parser)
    import_.run(parser.parse_args(["hf://me/model", "--output", str(tmp_path / "new")]))
    assert d2v.load(tmp_path / "new").width == 16


def test_push(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match=r"--push me/model: there is no token.*hf auth login"):
        run_export(checkpoint, "hf", tmp_path / "new", push="me/model")
    assert not (tmp_path / "new").exists()

    calls: list[tuple[str, str]] = []
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    monkeypatch.setattr(
        huggingface_hub, "create_repo", lambda name, exist_ok: calls.append(("create", name)) or f"https://hub/{name}"
    )
    monkeypatch.setattr(
        huggingface_hub,
        "upload_folder",
        lambda repo_id, folder_path, commit_message: calls.append((repo_id, Path(folder_path).name)),
    )
    folder = run_export(checkpoint, "hf", tmp_path / "new", push="me/model")
    assert calls == [("create", "me/model"), ("me/model", "new")]
    assert "pushed to https://hub/me/model" in capsys.readouterr().out
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\nlicense: other\n")
    assert "exported by d2v from `a.ckpt`" in card

    def refused(*args: Any, **kwargs: Any) -> None:
        raise OSError("403 Forbidden\nmore")

    monkeypatch.setattr(huggingface_hub, "upload_folder", refused)
    with pytest.raises(UserError, match=r"--push me/model: 403 Forbidden. The folder .* is written"):
        run_export(checkpoint, "hf", tmp_path / "other", push="me/model")
    assert (tmp_path / "other" / "config.json").is_file()

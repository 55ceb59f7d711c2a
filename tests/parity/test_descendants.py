"""Against the public code of descendants of data2vec 2.0, through the importer: features, losses, gradients."""

import json
from pathlib import Path

import pytest
import torch
from goldens import close, needs_goldens, read_golden
from safetensors.torch import save_file

import d2v

pytestmark = needs_goldens


@pytest.mark.parametrize("saved_as", ["files", "as_saved"])
def test_pantagruel_speech(tmp_path: Path, saved_as: str) -> None:
    golden = read_golden("descendants/pantagruel_speech_like")
    files, config = golden["files"], dict(golden["files"]["config.json"])
    if saved_as == "as_saved":
        config |= golden["as_saved"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(files["model.safetensors"], tmp_path / "model.safetensors", {"format": "pt"})
    encoder = d2v.load(tmp_path)
    for wave, x, outputs in zip(golden["normalised"], golden["x"], golden["layer_ffn_outputs"], strict=True):
        with torch.no_grad():
            found = encoder(wave[None])
        close(found.tokens[0], x)
        for ours, theirs in zip(found.ffn_outputs, outputs, strict=True):
            close(ours[0], theirs.reshape(ours[0].shape))

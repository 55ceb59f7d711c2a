"""Against the public code of descendants of data2vec 2.0, through the importer: features, losses, gradients."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import (
    Case,
    all_close,
    assert_gradients,
    assert_teacher_targets_predictions_and_loss,
    close,
    make_case,
    needs_goldens,
    read_golden,
)
from safetensors.torch import save_file

import d2v
from d2v.checkpoints.head_files import load_head
from d2v.data.filter_banks import read_spectrograms

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


def eat_checkpoint(golden: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """The file that EAT would have written."""
    return {"args": None, "cfg": {"model": golden["config"], "task": golden["task"]}, "model": state}


def hugging_face_names(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Tensors in fairseq's names as EAT's folders of transformers call them."""
    renamed = {}
    for name, value in state.items():
        if name != "_ema" and ".decoder." not in name:
            name = name.removeprefix("model.").removeprefix("modality_encoders.IMAGE.")
            renamed["model." + name.replace("context_encoder.norm.", "pre_norm.")] = value.clone()
    return renamed


def test_eat(tmp_path: Path) -> None:
    golden = read_golden("descendants/eat_base_like")
    inputs = golden["inputs"]
    content, mask = eat_checkpoint(golden, golden["state_dict"]), inputs["precomputed_mask"]
    case = make_case(golden, content, inputs["source"], mask, None, tmp_path)
    assert case.method.task.cls_loss is not None
    case.method.task.cls_loss.rows = len(mask)  # fairseq adds up the rows of the batch
    assert_teacher_targets_predictions_and_loss(case)
    assert_gradients(case, lambda state: eat_checkpoint(golden, state))
    assert_features(case)


def assert_features(case: Case) -> None:
    expected, encoder = case.golden["features_only"], d2v.load(case.folder)
    made = read_spectrograms(encoder.assets)
    assert made is not None
    assert (made.mean, made.std, made.frames) == (-4.268, 4.569, 192)
    with torch.no_grad():
        found = encoder(case.batch.inputs)
    assert found.cls is not None
    close(torch.cat([found.cls, found.tokens], dim=1), expected["x_with_extra_tokens"])
    all_close(found.ffn_outputs, [layer[:, 1:] for layer in expected["layer_results"]])
    for name, frames in (("first_80_frames", 80), ("repeated_and_cut_to_256_frames", 256)):
        with torch.no_grad():
            found = encoder(torch.cat([case.batch.inputs] * 2, dim=2)[:, :, :frames])
        assert found.cls is not None
        close(torch.cat([found.cls, found.tokens], dim=1), expected["other_lengths"][name])


EAT_CONFIG = {"model_type": "eat", "num_heads": 4, "norm_eps": 1e-6, "embed_dim": 32, "depth": 2}


@pytest.mark.parametrize("layout", ["fairseq", "hugging_face"])
def test_eat_fine_tuned(tmp_path: Path, layout: str) -> None:
    golden = read_golden("descendants/eat_finetuned_like")
    source = tmp_path
    if layout == "fairseq":
        source = tmp_path / "finetuned.pt"
        torch.save(eat_checkpoint(golden, golden["state_dict"]), source)
    else:
        save_file(hugging_face_names(golden["state_dict"]), tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps({**EAT_CONFIG, "model_variant": "finetune"}))
    encoder, head = d2v.load(source), load_head(source)
    assert head is not None
    assert head.task == "multi"
    with torch.no_grad():
        cls = encoder.embed(golden["inputs"]["source"], pool="cls")
        logits = head.module(cls)
    if layout == "fairseq":
        close(logits, golden["logits"])
    else:  # with the eps of that port
        assert 1e-3 < (logits - golden["logits"]).abs().max() < 1e-2
        state = golden["state_dict"]
        normed = torch.nn.functional.layer_norm(cls, (32,), state["fc_norm.weight"], state["fc_norm.bias"], 1e-5)
        close(logits, normed @ state["head.weight"].T + state["head.bias"])
    made = read_spectrograms(encoder.assets)
    assert made is not None
    assert made.frames == {"fairseq": 96, "hugging_face": 256}[layout]

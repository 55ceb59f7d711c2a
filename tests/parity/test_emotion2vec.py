"""Against the public code of emotion2vec: fairseq's 2.0 with ten tokens before the frames, FunASR's model folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from goldens import (
    Case,
    all_close,
    assert_gradients,
    assert_teacher_targets_predictions_and_loss,
    close,
    fairseq_checkpoint,
    make_case,
    needs_goldens,
    read_golden,
)
from torch import Tensor

import d2v
from d2v.nn.positional import ConvPositions
from d2v.types import TokenSequence

TOKENS = 10

pytestmark = needs_goldens


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return read_golden("descendants/emotion2vec_base_like")


@pytest.fixture
def case(golden: dict[str, Any], tmp_path: Path) -> Case:
    inputs = golden["inputs"]
    content = fairseq_checkpoint(golden, golden["state_dict"])
    case = make_case(golden, content, inputs["source"], inputs["precomputed_mask"], None, tmp_path)
    cls_loss = case.method.task.cls_loss
    assert cls_loss is not None
    assert cls_loss.tokens == "mean"  # cls_type chunk
    cls_loss.tokens = "last"  # fairseq's own class, which made the golden, knows of no chunk
    cls_loss.rows = len(inputs["precomputed_mask"])
    return case


def test_features_are_the_frames(case: Case) -> None:
    official = case.golden["features_only"]
    encoder = d2v.load(case.folder)
    with torch.no_grad():
        output = encoder(case.batch.inputs)
    close(output.tokens, official["x"])
    close(output.cls, official["x_with_extra_tokens"][:, :TOKENS])
    all_close(output.ffn_outputs, [layer[:, TOKENS:] for layer in official["layer_results"]])
    close(encoder.embed(case.batch.inputs), official["x"].mean(dim=1))


def test_teacher_targets_predictions_and_loss(case: Case) -> None:
    assert_teacher_targets_predictions_and_loss(case)


def test_every_gradient(case: Case) -> None:
    assert_gradients(case, lambda grads: fairseq_checkpoint(case.golden, grads))


@pytest.fixture
def model_folder(golden: dict[str, Any], tmp_path: Path) -> Path:
    """FunASR's, as published."""
    folder = tmp_path / "funasr"
    folder.mkdir()
    for name, content in golden["funasr"]["files"].items():
        if name.endswith(".pt"):
            torch.save(content, folder / name)
        else:
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def normalised(golden: dict[str, Any]) -> list[Tensor]:
    """The clips as an encoder reads them, [1, samples] each."""
    clips = [clip / 32768 for clip in golden["waveforms_int16"]]
    return [F.layer_norm(clip, clip.shape)[None] for clip in clips]


def test_funasr_gives_the_same_frames_and_means(golden: dict[str, Any], model_folder: Path, tmp_path: Path) -> None:
    d2v.import_checkpoint(model_folder, tmp_path / "imported")
    encoder = d2v.load(tmp_path / "imported")
    for clip, frames, mean in zip(
        normalised(golden), golden["funasr"]["frame"], golden["funasr"]["utterance"], strict=True
    ):
        close(encoder.embed(clip, pool="none")[0], frames)
        close(encoder.embed(clip)[0], mean)


def test_padding_leaks_in_the_official_code_through_positions_alone(
    case: Case, golden: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    padded, encoder = golden["features_padded"], d2v.load(case.folder)
    with torch.no_grad():
        ours = encoder(padded["source"], padded["padding_mask_samples"])
        close(ours.tokens[:1], padded["x"][:1])  # which has no padding
        close(ours.tokens[1:, :17], golden["funasr"]["frame"][2][None])  # and that clip alone
        monkeypatch.setattr(ConvPositions, "forward", leaky_positions)
        leaky = encoder(padded["source"], padded["padding_mask_samples"])
    assert torch.equal(leaky.padding_mask, padded["padding_mask"])
    valid = ~padded["padding_mask"]
    close(leaky.tokens[valid], padded["x"][valid])
    close(leaky.cls, padded["x_with_extra_tokens"][:, :TOKENS])


def leaky_positions(self: ConvPositions, sequence: TokenSequence) -> Tensor:
    """fairseq's, which set no padding to zero."""
    x = sequence.tokens
    for conv in self.layers:
        x = F.gelu(F.layer_norm(conv(x), x.shape[-1:]))
    return x

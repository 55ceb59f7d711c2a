"""Against the official code: data2vec 1.0 and 2.0 speech, step by step, and what padding does there and here."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from encoders import load_method, step
from goldens import (
    TEACHER,
    Case,
    all_close,
    assert_gradients,
    assert_step,
    assert_teacher_targets_predictions_and_loss,
    close,
    fairseq_checkpoint,
    make_case,
    needs_goldens,
    read_golden,
)
from torch import Tensor

import d2v
from d2v.checkpoints.folder import read_config
from d2v.model.targets import TopKTargets
from d2v.nn.positional import ConvPositions
from d2v.types import Batch, EncoderOutput, TokenSequence

NAMES = ["v1_audio", "v1_audio_prenorm", "v2_audio"]
PADDED = ["v1_audio_padded", "v2_audio_padded"]

pytestmark = needs_goldens


def speech_case(name: str, place: Path) -> Case:
    golden = read_golden(name)
    inputs = golden["inputs"]
    mask = inputs["precomputed_mask"] if "precomputed_mask" in inputs else inputs["mask_indices"]
    content = fairseq_checkpoint(golden, golden["state_dict"])
    return make_case(golden, content, inputs["source"], mask, inputs.get("padding_mask"), place)


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return speech_case(request.param, tmp_path)


@pytest.fixture(params=PADDED)
def padded(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return speech_case(request.param, tmp_path)


class LeakyTargets(TopKTargets):
    """Instance norm over padded frames too, as in fairseq."""

    def forward(self, teacher: EncoderOutput) -> Tensor:
        return super().forward(dataclasses.replace(teacher, padding_mask=None))


def leaky_positions(self: ConvPositions, sequence: TokenSequence) -> Tensor:
    """fairseq's 2.0 sets no padding to zero, its 1.0 once: before the first convolution, in what it is added to too."""
    x = sequence.tokens
    if sequence.padding_mask is not None and self.zero_first:
        x = x.masked_fill(sequence.padding_mask[..., None], 0)
    removed = x - sequence.tokens
    for conv in self.layers:
        x = F.gelu(F.layer_norm(conv(x), x.shape[-1:]))
    return x + removed


@pytest.fixture
def leaky(padded: Case, monkeypatch: pytest.MonkeyPatch) -> Case:
    """The padded case with the official leaks put back: positions, targets, decoder (by FixedMasking)."""
    one = padded.golden["name"].startswith("v1")
    monkeypatch.setattr(ConvPositions, "forward", leaky_positions)
    monkeypatch.setattr(ConvPositions, "zero_first", one, raising=False)
    targets = padded.method.task.targets
    padded.method.task.targets = LeakyTargets(targets.top_k, targets.source, targets.layer_norm, targets.mean_norm)
    return padded


def assert_features(case: Case) -> None:
    official = case.golden["features_only"]
    encoder = d2v.load(case.folder)
    with torch.no_grad():
        output = encoder(case.batch.inputs, case.batch.padding_mask)
    if official["padding_mask"] is None:
        assert output.padding_mask is None
    else:
        assert torch.equal(output.padding_mask, official["padding_mask"])
    close(output.tokens, official["x"])
    if "layer_results" in official:
        all_close(output.ffn_outputs, official["layer_results"])
    else:
        all_close(output.layers, official["layer_results_x"])
        all_close(output.ffn_outputs, official["layer_results_ffn"])
        close(output.layers[1], official["x_layer1"])


def assert_one_step(case: Case) -> None:
    after = case.golden["state_dict_after"]
    positions = f"{TEACHER}front.positions."
    if "_ema" in after and "mask_emb" in after:  # 1.0, whose teacher takes over the student's positions at each step
        for name in [name for name in after["_ema"] if name.startswith("pos_conv.")]:
            assert torch.equal(after["_ema"][name], after[f"encoder.{name}"])

    def skip(name: str) -> bool:
        # The golden's teacher starts with other positions than the student's, which no training of fairseq writes:
        # they are averaged here. Its mask embedding is never used.
        return name.startswith((positions, f"{TEACHER}front.masked_input.")) and "mask_emb" in after

    assert_step(case, fairseq_checkpoint(case.golden, dict(after)), decaying="all", skip=skip)


def test_features_and_layers_of_the_student(case: Case) -> None:
    assert_features(case)


def test_teacher_targets_predictions_and_loss(case: Case) -> None:
    assert_teacher_targets_predictions_and_loss(case)


def test_teacher_is_loaded_by_itself(case: Case) -> None:
    loaded = d2v.load(case.folder, weights="teacher")
    expected = case.method.teacher(case.batch, case.method.student.extract(case.batch.inputs))
    close(loaded(case.batch.inputs).tokens, expected.tokens)


def test_every_gradient(case: Case) -> None:
    assert_gradients(case, lambda grads: fairseq_checkpoint(case.golden, grads))


def test_one_step_of_optimizer_and_teacher(case: Case) -> None:
    assert_one_step(case)


def test_teacher_with_the_students_positions_borrows_them(tmp_path: Path) -> None:
    golden = read_golden("v1_audio")
    after = golden["state_dict_after"]  # as fairseq writes it: the positions are a copy
    content = fairseq_checkpoint(golden, after)
    case = make_case(golden, content, golden["inputs"]["source"], golden["inputs"]["mask_indices"], None, tmp_path)
    assert case.method.teacher.shared[""] == ("feature_extractor", "positions")
    assert not any("positions" in name for name, _ in case.method.teacher.named_parameters())
    notes = read_config(case.folder)["notes"]
    assert not any("positions" in note for note in notes)


def test_padding_leaks_in_the_official_code_and_only_so(leaky: Case) -> None:
    assert_features(leaky)
    assert_teacher_targets_predictions_and_loss(leaky)


def test_every_gradient_with_padding(leaky: Case) -> None:
    assert_gradients(leaky, lambda grads: fairseq_checkpoint(leaky.golden, grads))


def test_one_step_with_padding(leaky: Case) -> None:
    assert_one_step(leaky)


def test_without_the_leak_padded_features_are_others(padded: Case) -> None:
    official = padded.golden["features_only"]
    valid = ~official["padding_mask"]
    encoder = d2v.load(padded.folder)
    with torch.no_grad():
        ours = encoder(padded.batch.inputs, padded.batch.padding_mask).tokens
    close(ours[0], official["x"][0])  # the longest clip has no padding
    assert (ours[1] - official["x"][1])[valid[1]].abs().max() > 1e-3


def alone(batch: Batch, index: int) -> Batch:
    """A clip of a batch without its padding."""
    length = int((~batch.padding_mask[index]).sum())
    return Batch(batch.inputs[index : index + 1, :length], batch.sample_ids[index, None], batch.epochs[index, None])


def test_padding_changes_nothing_here(padded: Case) -> None:
    encoder, batch = d2v.load(padded.folder), padded.batch
    method = load_method(padded.folder)  # with the sampled masks of its recipe, which a clip's length decides
    with torch.no_grad():
        together = encoder(batch.inputs, batch.padding_mask)
        output = step(method, batch)
        losses, counts = [], []
        scored = torch.ones_like(output.mask.masked_index, dtype=torch.bool)
        scored = scored if output.mask.scored is None else output.mask.scored
        for index in range(len(batch.inputs)):
            clip = alone(batch, index)
            tokens = encoder(clip.inputs).tokens
            close(together.tokens[index : index + 1, : tokens.shape[1]], tokens)
            assert not together.padding_mask[index, : tokens.shape[1]].any()
            assert together.padding_mask[index, tokens.shape[1] :].all()

            single = step(method, clip)
            rows = slice(index * method.task.num_masks, (index + 1) * method.task.num_masks)
            close(output.predictions[rows][scored[rows]], single.predictions.flatten(0, 1))
            close(output.targets[rows][scored[rows]], single.targets.flatten(0, 1))
            losses.append(single.loss * single.targets[..., 0].numel())
            counts.append(single.targets[..., 0].numel())
    close(output.loss, sum(losses) / sum(counts))


def test_recipe_of_the_goldens(case: Case) -> None:
    config: dict[str, Any] = read_config(case.folder)["method"]
    masking = config["masking"]["init_args"]
    assert config["student"]["front"]["init_args"]["extractor"] == [[16, 10, 5], [16, 3, 2], [16, 3, 2], [16, 2, 2]]
    if case.golden["name"].startswith("v1"):
        assert masking == {"mask_prob": 0.65, "span": 10, "shared_by": 11_875, "inside": True}
    else:
        assert masking == {"mask_ratio": 0.5, "span": 5, "adjust": 0.05}
        assert config["num_masks"] == 3
        assert config["shared_with_teacher"] == ["feature_extractor"]

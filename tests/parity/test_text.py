"""Against the official code: data2vec 1.0 and 2.0 text, step by step, and what padding does there and here."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import arguments, load_method, step
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
from torch import Tensor, nn

import d2v
from d2v.checkpoints.folder import read_config
from d2v.model.targets import TopKTargets
from d2v.nn.positional import LearnedPositions
from d2v.types import Batch, EncoderOutput, TokenSequence

NAMES = ["v1_text", "v2_text"]
BEFORE_BLOCKS = ("feature_extractor", "positions", "input_norm")
PADDING_ID = 1
TASK = {
    "_name": "masked_lm", "mask_prob": 0.35, "mask_multiple_length": 4, "random_token_prob": 0.0,
    "leave_unmasked_prob": 0.0,
}  # fmt: skip

pytestmark = needs_goldens


def checkpoint(golden: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    content = fairseq_checkpoint(golden, state)
    return {**content, "cfg": {**content["cfg"], "task": TASK}}


def text_case(name: str, place: Path, state: dict[str, Any] | None = None) -> Case:
    golden = read_golden(name)
    inputs = golden["inputs"]
    content = checkpoint(golden, state or golden["state_dict"])
    if "source" in inputs:
        source, mask = inputs["source"], inputs["precomputed_mask"]
    else:
        source, mask = inputs["target_tokens"], golden["mask_used"]
        # fairseq's data loader writes <mask> into the text, here the student does.
        assert torch.equal(inputs["src_tokens"], source.masked_fill(mask.bool(), golden["mask_token_index"]))
    return make_case(golden, content, source, mask, inputs.get("padding_mask"), place)


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return text_case(request.param, tmp_path)


@pytest.fixture
def padded(tmp_path: Path) -> Case:
    return text_case("v2_text_padded", tmp_path)


class LeakyTargets(TopKTargets):
    """Instance norm over padded tokens too, as in fairseq."""

    def forward(self, teacher: EncoderOutput) -> Tensor:
        return super().forward(dataclasses.replace(teacher, padding_mask=None))


class LeakyPositions(nn.Module):
    """Padded tokens have a position of their own, which fairseq keeps in the row of ``<pad>``."""

    mixes_tokens = False

    def __init__(self, positions: LearnedPositions, padding: Tensor) -> None:
        super().__init__()
        self.table = positions.table
        self.register_buffer("padding", padding, persistent=False)

    def forward(self, sequence: TokenSequence) -> Tensor:
        table = self.table[: sequence.grid[0]].expand_as(sequence.tokens)
        return torch.where(sequence.padding_mask[..., None], self.padding, table)


def put_leaks_back(case: Case) -> None:
    """The official leaks: positions, targets, decoder (by FixedMasking). The embedding of <pad> is never trained."""
    table = case.golden["state_dict"]["modality_encoders.TEXT.local_encoder.embed_positions.weight"]
    method = case.method
    leaky = LeakyPositions(method.student.front.positions, table[PADDING_ID])
    method.student.front.positions = leaky
    method.teacher.encoder.front.__dict__["positions"] = leaky
    method.student.front.feature_extractor.embedding.padding_idx = PADDING_ID
    targets = method.task.targets
    method.task.targets = LeakyTargets(targets.top_k, targets.source, targets.layer_norm, targets.mean_norm)


@pytest.fixture
def leaky(padded: Case) -> Case:
    put_leaks_back(padded)
    return padded


def assert_features(case: Case, encoder: Any) -> None:
    official = case.golden["features_only"]
    with torch.no_grad():
        output = encoder(case.batch.inputs, case.batch.padding_mask)
    close(output.tokens, official["x"])
    close(output.cls, official["x"][:, :1])
    if "layer_results" in official:
        all_close(output.ffn_outputs, official["layer_results"])
    else:
        all_close(output.layers, official["inner_states"][1:])


def test_features_and_layers_of_the_student(case: Case) -> None:
    assert_features(case, d2v.load(case.folder))


def test_teacher_targets_predictions_and_loss(case: Case) -> None:
    assert_teacher_targets_predictions_and_loss(case)


def test_teacher_is_loaded_by_itself(case: Case) -> None:
    loaded = d2v.load(case.folder, weights="teacher")
    expected = case.method.teacher(case.batch, case.method.student.extract(case.batch.inputs))
    close(loaded(case.batch.inputs).tokens, expected.tokens)


def test_every_gradient(case: Case) -> None:
    assert_gradients(case, lambda grads: checkpoint(case.golden, grads))
    embedding = case.method.student.front.feature_extractor.embedding.weight.grad
    assert embedding[-1].any() == case.golden["name"].startswith("v1")  # <mask>, which 2.0 never reads


def test_one_step_of_optimizer_and_teacher(case: Case) -> None:
    after = case.golden["state_dict_after"]
    if "encoder._ema" in after:  # 1.0, whose teacher takes over what stands before the student's blocks at each step
        for name in ("embed_tokens.weight", "embed_positions.weight", "layernorm_embedding.weight"):
            assert torch.equal(after["encoder._ema"][name], after[f"encoder.sentence_encoder.{name}"])

    def skip(name: str) -> bool:
        # The golden's teacher starts with others than the student's, which no training of fairseq writes: they are
        # averaged here.
        return name.startswith(tuple(f"{TEACHER}front.{part}." for part in BEFORE_BLOCKS))

    assert_step(case, checkpoint(case.golden, dict(after)), decaying="all", skip=skip)


def test_teacher_of_the_goldens(case: Case) -> None:
    """Of 1.0 it is averaged, since it is no copy; of 2.0 it is not there."""
    notes = read_config(case.folder)["notes"]
    if case.golden["name"].startswith("v1"):
        assert case.method.teacher.shared[""] == ()
        assert any("feature_extractor, positions, input_norm are not the student's" in n for n in notes)
    else:
        assert case.method.teacher.shared[""] == BEFORE_BLOCKS


def test_teacher_with_the_students_embeddings_borrows_them(tmp_path: Path) -> None:
    after = read_golden("v1_text")["state_dict_after"]  # as fairseq writes it: the embeddings are a copy
    case = text_case("v1_text", tmp_path, after)
    assert case.method.teacher.shared[""] == BEFORE_BLOCKS
    assert all(name.startswith("trunk.blocks.") for name, _ in case.method.teacher.encoder.named_parameters())
    assert not any("averaged instead" in note for note in read_config(case.folder)["notes"])
    ema = after["encoder._ema"]
    close(d2v.load(case.folder, weights="teacher").front.feature_extractor.embedding.weight, ema["embed_tokens.weight"])


def test_padding_leaks_in_the_official_code_and_only_so(leaky: Case) -> None:
    assert_features(leaky, leaky.method.student)
    assert_teacher_targets_predictions_and_loss(leaky)


def test_every_gradient_with_padding(leaky: Case) -> None:
    assert_gradients(leaky, lambda grads: checkpoint(leaky.golden, grads))


def test_one_step_with_padding(leaky: Case) -> None:
    after = checkpoint(leaky.golden, dict(leaky.golden["state_dict_after"]))
    assert_step(leaky, after, decaying="all", skip=lambda name: False)


def test_features_of_what_is_no_padding_need_no_leak(padded: Case) -> None:
    """Without convolutions over the tokens only targets and decoder see padding."""
    official, valid = padded.golden["features_only"]["x"], ~padded.batch.padding_mask
    with torch.no_grad():
        output = d2v.load(padded.folder)(padded.batch.inputs, padded.batch.padding_mask)
    close(output.tokens[valid], official[valid])
    assert torch.equal(output.padding_mask, padded.batch.padding_mask)
    method = padded.method
    with torch.no_grad():
        features = method.student.extract(padded.batch.inputs, padded.batch.padding_mask)
        targets = method.task.targets(method.teacher(padded.batch, features))
    official = padded.golden["captures"]["targets_all"]
    close(targets[0], official[0])  # the longest text has no padding
    assert (targets[1] - official[1])[valid[1]].abs().max() > 1e-2


def alone(batch: Batch, index: int) -> Batch:
    """A text of a batch without its padding."""
    length = int((~batch.padding_mask[index]).sum())
    return Batch(batch.inputs[index : index + 1, :length], batch.sample_ids[index, None], batch.epochs[index, None])


def test_padding_changes_nothing_here(padded: Case) -> None:
    encoder, batch = d2v.load(padded.folder), padded.batch
    method = load_method(padded.folder)  # with the sampled masks of its recipe, which a text's length decides
    with torch.no_grad():
        together = encoder(batch.inputs, batch.padding_mask)
        output = step(method, batch)
        scored = output.mask.scored
        total, count = torch.zeros(()), 0
        for index in range(len(batch.inputs)):
            text = alone(batch, index)
            tokens = encoder(text.inputs).tokens
            close(together.tokens[index : index + 1, : tokens.shape[1]], tokens)

            single = step(method, text)
            rows = slice(index * method.task.num_masks, (index + 1) * method.task.num_masks)
            close(output.predictions[rows][scored[rows]], single.predictions.flatten(0, 1))
            close(output.targets[rows][scored[rows]], single.targets.flatten(0, 1))
            total = total + single.loss * single.mask.masked.sum()
            count += int(single.mask.masked.sum())
    close(output.loss, total / count)


def test_recipe_of_the_goldens(case: Case) -> None:
    config: dict[str, Any] = read_config(case.folder)["method"]
    student, masking = arguments(config["student"]), config["masking"]
    assert (student["vocab_size"], student["max_positions"], student["eps"]) == (50, 32, 1e-5)
    if case.golden["name"].startswith("v1"):
        assert masking["class_path"] == "d2v.model.masking.RandomSpanMasking"
        assert masking["init_args"] == {"mask_prob": 0.35, "span": 4, "shared_by": None, "inside": False}
        assert config["loss"]["init_args"] == {"kind": "smooth_l1", "beta": 4.0, "reduction": "sum"}
        assert config["head"]["class_path"] == "d2v.model.heads.MLPHead"
        assert (student["random_tokens"], student["unchanged_tokens"]) == (0, 0)
    else:
        assert masking == {"class_path": "d2v.model.masking.RandomMasking", "init_args": {"mask_ratio": 0.48}}
        assert config["num_masks"] == 3
        assert config["head"]["init_args"]["projection_layers"] == 2
    assert config["targets"]["init_args"]["layer_norm"] == ("layer" if case.golden["name"][1] == "1" else "instance")

"""Against the official code: data2vec 1.0 and 2.0 vision, step by step."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
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

import d2v
from d2v.training.optimizer import Decaying

NAMES = ["v2_image", "v1_vision", "v1_vision_abs_pos_fc_l2", "v1_vision_fairseq", "v1_vision_fairseq_fc"]

pytestmark = needs_goldens


def official_checkpoint(golden: dict[str, Any], state: dict[str, Any], ema: dict[str, Any] | None) -> dict[str, Any]:
    """The file that the official training would have written."""
    if "engine" not in golden:
        return fairseq_checkpoint(golden, state)
    engine, config = golden["engine"], golden["config"]
    grid = config["img_size"] // config["patch_size"]
    args = argparse.Namespace(  # as run_cyclical.py calls what it passes on to the engine
        model="beit_tiny",
        target_layers=str(engine["target_layers"]),
        layer_results=engine["layer_results"],
        no_target_layer_norm_last=not engine["target_layer_norm_last"],
        target_instance_norm=engine.get("target_instance_norm", False),
        target_batch_norm=False,
        post_target_instance_norm=False,
        post_target_layer_norm=engine.get("post_target_layer_norm", False),
        l2_loss=engine.get("l2_loss", False),
        l1_beta=engine.get("l1_beta", 0.12),
        ema_decay_init=engine["decay_init"],
        ema_decay=engine["decay"],
        ema_start_at=engine["ema_start_at"],
        num_mask_patches=14,
        min_mask_patches_per_block=4,
        max_mask_patches_per_block=None,
        window_size=(grid, grid),
        layer_scale_init_value=config["init_values"],
        drop_path=0.0,
        attn_drop_rate=0.0,
        loss_scale=-1,
        mask_dropout_prob=-1.0,
        var_w0=0.0,
    )
    return {"model": state, "model_ema": ema, "optimizer": {"state": {}}, "epoch": 0, "scaler": {}, "args": args}


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read_golden(request.param)


@pytest.fixture
def case(golden: dict[str, Any], tmp_path: Path) -> Case:
    inputs = golden["inputs"]
    mask = inputs["precomputed_mask"] if "precomputed_mask" in inputs else inputs["mask"].flatten(1)
    content = official_checkpoint(golden, golden["state_dict"], golden.get("ema_state_dict"))
    case = make_case(golden, content, inputs.get("source", inputs.get("img")), mask, None, tmp_path)
    if case.method.task.cls_loss is not None:
        case.method.task.cls_loss.rows = len(mask)  # fairseq adds up the rows of the batch
    return case


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint as it comes out of a file."""
    args = content["args"]
    return {**content, "args": vars(args) if isinstance(args, argparse.Namespace) else args}


def test_features_and_layers_of_the_student(case: Case) -> None:
    official = case.golden["features_only"]
    encoder = d2v.load(case.folder)
    with torch.no_grad():
        output = encoder(case.batch.inputs)
    num_tokens = output.tokens.shape[1]
    close(output.tokens, official["x"][:, -num_tokens:])
    if "x_with_extra_tokens" in official:
        close(output.cls, official["x_with_extra_tokens"][:, :1])
    elif official["x"].shape[1] > num_tokens:
        close(output.cls, official["x"][:, :1])
    if "layer_results_end" in official:  # BEiT
        pairs = [(output.layers, official["layer_results_end"]), (output.ffn_outputs, official["layer_results_fc"])]
    else:
        ends = case.method.task.targets.source == "end"
        pairs = [(output.layers if ends else output.ffn_outputs, official["layer_results"])]
    for ours, theirs in pairs:
        all_close(ours, [layer[:, -num_tokens:] for layer in theirs])


def test_teacher_targets_predictions_and_loss(case: Case) -> None:
    assert_teacher_targets_predictions_and_loss(case)


def test_teacher_is_loaded_by_itself(case: Case) -> None:
    loaded = d2v.load(case.folder, weights="teacher")
    expected = case.method.teacher(case.batch, case.method.student.extract(case.batch.inputs))
    close(loaded(case.batch.inputs).tokens, expected.tokens)


def test_every_gradient(case: Case) -> None:
    assert_gradients(case, lambda grads: plain(official_checkpoint(case.golden, grads, None)))


def test_one_step_of_optimizer_and_teacher(case: Case) -> None:
    golden = case.golden
    decaying: Decaying = "all"
    if "engine" in golden:
        decaying = "beit"

    def skip(name: str) -> bool:
        # fairseq's 1.0 vision borrows what stands before the Transformer, here it is averaged along.
        borrowed = name.startswith(TEACHER) and name.endswith(("cls_token", "mask_token"))
        return borrowed and bool(case.method.teacher.shared[""])

    after = official_checkpoint(golden, dict(golden["state_dict_after"]), golden.get("ema_state_dict_after"))
    assert_step(case, plain(after), decaying, skip)

"""Against the official code: the goldens of /shared/reference/FIXTURES.md, through the path that a user takes.

A checkpoint file as fairseq or BEiT writes it -> `d2v import` -> the folder -> `d2v.load` and one training step.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import d2v
from d2v.checkpoints import recognise
from d2v.checkpoints.load import load_method
from d2v.commands import import_
from d2v.model.data2vec import Data2Vec
from d2v.model.masking import Masking
from d2v.types import Batch, Data2VecOutput, Mask

FIXTURES = Path(__file__).parents[2].parent / "shared" / "reference" / "fixtures"
NAMES = ["v2_image", "v1_vision", "v1_vision_abs_pos_fc_l2", "v1_vision_fairseq", "v1_vision_fairseq_fc"]
TEACHER = "teacher.encoder."

pytestmark = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"no reference fixtures in {FIXTURES}")


class FixedMasking(Masking):
    """The mask of the fixture, whose rows may differ in their number of masked tokens."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask.bool()

    def forward(self, batch: Batch, grid: tuple[int, ...], num_masks: int, seed: int) -> Mask:
        return Mask.from_dense(self.mask, int(self.mask.sum(dim=1).max()), num_masks, equal_counts=False)

    def sample(self, keys: Tensor, grid: tuple[int, ...]) -> Tensor:
        raise NotImplementedError

    def num_masked(self, grid: tuple[int, ...]) -> int:
        raise NotImplementedError


def official_checkpoint(golden: dict[str, Any], state: dict[str, Any], ema: dict[str, Any] | None) -> dict[str, Any]:
    """The file that the official training would have written."""
    if "engine" not in golden:
        return {"args": None, "cfg": {"model": golden["config"]}, "model": state, "criterion": None}
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


def in_our_names(golden: dict[str, Any], state: dict[str, Any], ema: dict[str, Any] | None = None) -> dict[str, Tensor]:
    """Official tensors (weights or gradients) under our names, by the importer's renaming."""
    content = official_checkpoint(golden, state, ema)
    if isinstance(content["args"], argparse.Namespace):
        content["args"] = vars(content["args"])
    return recognise.convert(content).weights


@dataclass
class Case:
    golden: dict[str, Any]
    folder: Path
    method: Data2Vec
    batch: Batch
    mask: Tensor


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> dict[str, Any]:
    return torch.load(FIXTURES / f"{request.param}.pt", weights_only=True)


@pytest.fixture
def case(golden: dict[str, Any], tmp_path: Path) -> Case:
    source, folder = tmp_path / "checkpoint.pt", tmp_path / "imported"
    torch.save(official_checkpoint(golden, golden["state_dict"], golden.get("ema_state_dict")), source)
    import_.run(argparse.Namespace(source=source, output=folder))
    method = load_method(folder)
    inputs = golden["inputs"]
    pixels = inputs.get("source", inputs.get("img"))
    mask = inputs["precomputed_mask"] if "precomputed_mask" in inputs else inputs["mask"].flatten(1)
    method.masking = FixedMasking(mask)
    if method.cls_loss is not None:
        method.cls_loss.rows = len(mask)  # fairseq adds up the rows of the batch
    batch = Batch(pixels, torch.arange(len(pixels)), torch.zeros(len(pixels), dtype=torch.int64))
    return Case(golden, folder, method, batch, mask)


def close(ours: Tensor, official: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours, official, atol=atol, rtol=1e-5)


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
        pairs = [
            (output.layers if case.method.targets.source == "end" else output.ffn_outputs, official["layer_results"])
        ]
    for ours, theirs in pairs:
        assert len(ours) == len(theirs)
        for layer, official_layer in zip(ours, theirs, strict=True):
            close(layer, official_layer[:, -num_tokens:])


def test_teacher_targets_predictions_and_loss(case: Case) -> None:
    golden, method = case.golden, case.method
    captures = golden["captures"]
    teacher = method.teacher(case.batch, method.student.extract(case.batch.inputs))
    layers = teacher.ffn_outputs if method.targets.source == "ffn" else teacher.layers
    for layer, official in zip(layers, captures["teacher_layers"], strict=True):
        close(layer, official)
    if "targets_all" in captures:
        close(method.targets(teacher), captures["targets_all"])

    output = method(case.batch)
    scored = output.mask.scored
    close(output.targets[scored], captures["target_masked"])
    close(output.predictions[scored], captures["pred_masked"])
    close(output.loss, torch.tensor(golden["loss"]))
    if output.cls_loss is not None:
        close(output.cls_loss, torch.tensor(golden["losses"]["cls"] / golden["sample_size"]))


def test_teacher_is_loaded_by_itself(case: Case) -> None:
    loaded = d2v.load(case.folder, weights="teacher")
    expected = case.method.teacher(case.batch, case.method.student.extract(case.batch.inputs))
    close(loaded(case.batch.inputs).tokens, expected.tokens)


def test_every_gradient(case: Case) -> None:
    golden = case.golden
    case.method(case.batch).loss.backward()
    ours = {name: value.grad for name, value in case.method.named_parameters() if value.grad is not None}

    # Official gradients in our names; parameters without one are zeros on the way.
    state = {name: value for name, value in golden["state_dict"].items() if name != "_ema"}
    grads = {name: golden["grads"].get(name, torch.zeros_like(value)) for name, value in state.items()}
    official = in_our_names(golden, grads)
    assert ours.keys() <= official.keys()
    assert {name for name, grad in official.items() if grad.any()} == {
        name for name, grad in ours.items() if grad.any()
    }

    total = torch.stack([grad.norm() for grad in ours.values()]).norm()
    assert total.item() == pytest.approx(golden["grad_global_norm"], rel=1e-5)
    for name, grad in ours.items():
        # The bias of keys cancels in the softmax: its gradient is rounding, so it is measured with the rest of qkv.
        assert (grad - official[name]).norm() <= 1e-4 * official[name].norm(), name


def test_one_step_of_optimizer_and_teacher(case: Case) -> None:
    golden, method = case.golden, case.method
    optimizer = official_optimizer(golden, method)
    output: Data2VecOutput = method(case.batch)
    output.loss.backward()
    if "clip" in golden["optim"]:
        torch.nn.utils.clip_grad_norm_(method.parameters(), golden["optim"]["clip"])
    optimizer.step()
    method.teacher.update(method.student, golden["ema_decay_used"])

    after = dict(golden["state_dict_after"])
    official = in_our_names(golden, after, golden.get("ema_state_dict_after"))
    ours = method.state_dict()
    for name, value in official.items():
        if name.startswith(TEACHER):
            if method.teacher.shared and name.endswith(("cls_token", "mask_token")):
                continue  # fairseq's 1.0 vision borrows what stands before the Transformer, here it is averaged along
            close(ours[name], value, atol=1e-6)
        else:
            # Adam's first step is lr * sign(gradient) where the gradient is above eps, so rounding can be amplified.
            close(ours[name], value)


def official_optimizer(golden: dict[str, Any], method: Data2Vec) -> torch.optim.Optimizer:
    """torch's AdamW doing what fairseq's Adam does in its first step, or as BEiT uses it."""
    optim = golden["optim"]
    named = [(name, value) for name, value in method.named_parameters() if value.requires_grad]
    if "clip" in optim:  # BEiT
        # By its shape [1, 1, D] BEiT decays the mask embedding, though no other vector.
        vectors = [name for name, value in named if value.ndim == 1 and "mask_token" not in name]
        no_decay = [value for name, value in named if name in vectors or "cls" in name or "positions" in name]
        eps = optim["eps"]
    else:
        no_decay = []
        eps = optim["eps"] / (1 - optim["betas"][1]) ** 0.5  # fairseq adds eps before the bias correction
    excluded = {id(value) for value in no_decay}
    groups = [
        {"params": [value for _, value in named if id(value) not in excluded], "weight_decay": optim["weight_decay"]},
        {"params": no_decay, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=optim["lr"], betas=optim["betas"], eps=eps
    )

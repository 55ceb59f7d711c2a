"""The goldens of /shared/reference/FIXTURES.md, through the path that a user takes.

A checkpoint file as the official code writes it -> `d2v import` -> the folder -> `d2v.load` and one training step.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import load_method, step
from torch import Tensor

from d2v.commands import import_
from d2v.model.data2vec import Data2Vec
from d2v.model.masking import Masking
from d2v.official import recognise
from d2v.training.optimizer import Decaying, parameter_groups
from d2v.types import Batch, Mask

FIXTURES = Path(__file__).parents[2].parent / "shared" / "reference" / "fixtures"
TEACHER = "teacher.encoder."

needs_goldens = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"no reference fixtures in {FIXTURES}")


class FixedMasking(Masking):
    """The mask of the fixture, whose rows may differ in their number of masked tokens."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask.bool()

    def forward(
        self, batch: Batch, grid: tuple[int, ...], num_masks: int, seed: int, padding_mask: Tensor | None = None
    ) -> Mask:
        # No padding is told to the decoder: the official ones know of none.
        return Mask.from_dense(self.mask, int(self.mask.sum(dim=1).max()), num_masks, equal_counts=False)

    def sample(self, keys: Tensor, grid: tuple[int, ...], num_valid: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def num_masked(self, grid: tuple[int, ...]) -> int:
        raise NotImplementedError


@dataclass
class Case:
    golden: dict[str, Any]
    folder: Path
    method: Data2Vec
    batch: Batch


def read_golden(name: str) -> dict[str, Any]:
    return torch.load(FIXTURES / f"{name}.pt", weights_only=True)


def fairseq_checkpoint(golden: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """The file that fairseq would have written."""
    return {"args": None, "cfg": {"model": golden["config"]}, "model": state, "criterion": None}


def make_case(
    golden: dict[str, Any],
    content: dict[str, Any],
    inputs: Tensor,
    mask: Tensor,
    padding_mask: Tensor | None,
    place: Path,
) -> Case:
    """Import a golden's checkpoint ``content`` and put its batch and mask beside it."""
    source, folder = place / "checkpoint.pt", place / "imported"
    torch.save(content, source)
    import_.run(argparse.Namespace(source=source, output=folder, dict=None, classes=None, tokenizer=None))
    method = load_method(folder)
    method.task.masking = FixedMasking(mask)
    ids = torch.arange(len(inputs))
    return Case(golden, folder, method, Batch(inputs, ids, torch.zeros_like(ids), padding_mask=padding_mask))


def in_our_names(content: dict[str, Any]) -> dict[str, Tensor]:
    """Official tensors (weights or gradients) under our names, by the importer's renaming."""
    return recognise.read_content(content).weights


def close(ours: Tensor, official: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours, official, atol=atol, rtol=1e-5)


def all_close(ours: Any, official: Any) -> None:
    """Layers one by one."""
    assert len(ours) == len(official)
    for layer, official_layer in zip(ours, official, strict=True):
        close(layer, official_layer)


def assert_teacher_targets_predictions_and_loss(case: Case) -> None:
    golden, method, batch = case.golden, case.method, case.batch
    captures = golden["captures"]
    teacher = method.teacher(batch, method.student.extract(batch.inputs, batch.padding_mask))
    layers = teacher.ffn_outputs if method.task.targets.source == "ffn" else teacher.layers
    # fairseq's 1.0 hands out the layers that enter the target, all others every layer.
    all_close(layers[-len(captures["teacher_layers"]) :], captures["teacher_layers"])
    if "targets_all" in captures:
        close(method.task.targets(teacher), captures["targets_all"])

    output = step(method, batch)
    scored = output.mask.scored
    close(output.targets[scored], captures["target_masked"])
    close(output.predictions[scored], captures["pred_masked"])
    close(output.loss, torch.tensor(golden["loss"]))
    if output.cls_loss is not None:
        close(output.cls_loss, torch.tensor(golden["losses"]["cls"] / golden["sample_size"]))


def assert_gradients(case: Case, checkpoint: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Every gradient; ``checkpoint`` makes the content of a file from a state dict."""
    golden = case.golden
    step(case.method, case.batch).loss.backward()
    ours = {name: value.grad for name, value in case.method.named_parameters() if value.grad is not None}

    # Official gradients in our names; parameters without one are zeros on the way.
    state = {name: value for name, value in golden["state_dict"].items() if isinstance(value, Tensor)}  # and no teacher
    grads = {name: golden["grads"].get(name, torch.zeros_like(value)) for name, value in state.items()}
    official = in_our_names(checkpoint(grads))
    assert ours.keys() <= official.keys()
    assert {name for name, grad in official.items() if grad.any()} == {
        name for name, grad in ours.items() if grad.any()
    }

    total = torch.stack([grad.norm() for grad in ours.values()]).norm()
    assert total.item() == pytest.approx(golden["grad_global_norm"], rel=1e-5)
    for name, grad in ours.items():
        # The bias of keys cancels in the softmax: its gradient is rounding, so it is measured with the rest of qkv.
        assert (grad - official[name]).norm() <= 1e-4 * official[name].norm(), name


def assert_step(case: Case, after: dict[str, Any], decaying: Decaying, skip: Callable[[str], bool]) -> None:
    """One step of Adam and of the teacher.

    Args:
        case: Changed in place.
        after: Content of the official checkpoint after the step.
        decaying: What has weight decay.
        skip: Which tensors, by our names, cannot be compared.
    """
    golden, method = case.golden, case.method
    optim = golden["optim"]
    eps = optim["eps"]
    if "fairseq" in optim["kind"]:
        eps /= (1 - optim["betas"][1]) ** 0.5  # fairseq adds eps before the bias correction
    groups = parameter_groups(method, decaying)
    optimizer = torch.optim.AdamW(
        groups, lr=optim["lr"], betas=optim["betas"], eps=eps, weight_decay=optim["weight_decay"]
    )
    step(method, case.batch).loss.backward()
    if "clip" in optim:
        torch.nn.utils.clip_grad_norm_(method.parameters(), optim["clip"])
    optimizer.step()
    method.teacher.update(method.student, golden["ema_decay_used"])

    ours = method.state_dict()
    for name, value in in_our_names(after).items():
        if not skip(name):
            # Adam's first step is lr * sign(gradient) where the gradient is above eps, so rounding can be amplified.
            close(ours[name], value, atol=1e-6 if name.startswith(TEACHER) else 1e-5)

"""A training step never waits for its device: on the meta device, whose tensors have no values, nothing could be read.

All six published recipes at their own size; what a step costs does not matter there.
"""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d2v import from_recipe
from d2v.types import Batch

RECIPES = {
    "vision.yaml": (2, 3, 224, 224),
    "v2/vision.yaml": (2, 3, 224, 224),
    "speech.yaml": (2, 200_000),
    "v2/speech.yaml": (2, 200_000),
    "text.yaml": (2, 512),
    "v2/text.yaml": (2, 512),
}


class Watched(TorchDispatchMode):
    """Counts what reads from the device, or copies to it from memory that is not pinned."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.operations = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        result = operation(*args, **(kwargs or {}))
        self.operations += 1
        # Numbers of no dimension go to a kernel as its arguments.
        devices = {each.device.type for each in given if each.ndim or each.device.type == "meta"}
        made = [each for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        devices |= {each.device.type for each in made}
        reads = operation in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        if devices >= {"cpu", "meta"} or (reads and "meta" in devices):
            self.waits[str(operation)] += 1
        return result


def batch(shape: tuple[int, ...]) -> Batch:
    inputs, padding_mask = torch.zeros(shape), None
    if len(shape) == 2:
        padding_mask = torch.zeros(shape, dtype=torch.bool)
    if shape[1] == 512:
        inputs, padding_mask = inputs.long(), None
    ids = torch.zeros(len(inputs), dtype=torch.long)
    return Batch(inputs, ids, ids, padding_mask=padding_mask)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_waits_for_nothing_and_its_attention_is_aligned(recipe, monkeypatch):
    biases = []
    attend = F.scaled_dot_product_attention

    def watched_attention(query, key, value, attn_mask=None, **options):
        if attn_mask is not None:
            biases.append((query, attn_mask))
        return attend(query, key, value, attn_mask=attn_mask, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched_attention)
    with torch.device("meta"):
        method = from_recipe(recipe).method.train()
        batches = {"": batch(RECIPES[recipe])}
        method(batches, 1)  # tables of counts go to the device in the first step
        with Watched() as watched:
            method(batches, 1)[""].loss.backward()
            method.move_teacher(0.99)
    assert watched.operations > 1000
    assert not watched.waits
    for query, bias in biases:  # else a GPU falls back to the plain formula
        assert bias.dtype == query.dtype
        assert bias.stride(-1) == 1
        assert all(stride % 8 == 0 for stride in bias.stride()[:-1])


def test_the_watch_sees_what_waits():
    x = torch.zeros(3, device="meta")
    with Watched() as watched:
        torch.zeros(3).to("meta")
        with pytest.raises(RuntimeError):
            x.sum().item()
    assert watched.waits["aten._to_copy.default"] == 1

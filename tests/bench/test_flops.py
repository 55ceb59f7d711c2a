"""Our own count of a step's operations, held against torch's, which counts what is really run."""

import functools
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from d2v import from_recipe
from d2v.types import Batch

RECIPES = {
    "vision.yaml": torch.randn(2, 3, 224, 224),
    "speech.yaml": torch.randn(2, 8000),
    "text.yaml": torch.randint(5, 100, (2, 64)),
    "v2/vision.yaml": torch.randn(1, 3, 224, 224),
    "v2/speech.yaml": torch.randn(2, 8000),
    "v2/emotion.yaml": torch.randn(2, 8000),
    "v2/text.yaml": torch.randint(5, 100, (2, 64)),
}
SMALL: dict[str, Any] = {
    "model.student.trunk.width": 48, "model.student.trunk.num_heads": 4, "model.student.trunk.depth": 2,
    "model.targets.top_k": 1, "model.num_masks": 2,
}  # fmt: skip


def convolution(x: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    """Of an operation of ours, channels last; each of the two gradients takes as much."""
    return 2 * torch.Size(x[:-1]).numel() * torch.Size(weight).numel()


def gradient(grad: Any, x: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    return convolution(x, weight)


OURS = {
    torch.ops.d2v.grouped_convolution: convolution,
    torch.ops.d2v.grouped_convolution_input_gradient: gradient,
    torch.ops.d2v.grouped_convolution_weight_gradient: gradient,
}


class Counter(FlopCounterMode):
    """Without the tables by module, for which torch wants a gradient of all that a module returns."""

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=OURS)
        self.mod_tracker.__class__ = _NoTracker


class _NoTracker(type(FlopCounterMode(display=False).mod_tracker)):  # type: ignore[misc]
    def __enter__(self) -> Any:
        return self

    def __exit__(self, *args: Any) -> None:
        pass


@functools.cache
def small(recipe: str) -> Any:
    return from_recipe(recipe, **SMALL)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_count_is_that_of_torch_to_the_last_operation(recipe: str) -> None:
    module = small(recipe)
    for stack in (module.method.student.front.prenet, module.method.student.trunk.blocks):
        stack.layer_drop = 0.0
    inputs = RECIPES[recipe]
    batch = Batch(inputs, torch.arange(len(inputs)), torch.zeros(len(inputs), dtype=torch.int64))
    # Other kernels compute the scores of attention again in the backward pass, and torch counts that.
    with sdpa_kernel(SDPBackend.MATH), Counter() as counter:
        output = module.method({"": batch}, 0)[""]
        output.loss.backward()
    assert module.method.flops("", batch, output) == counter.get_total_flops()


def test_of_layer_drop_what_is_to_be_expected_is_counted() -> None:
    module = small("v2/speech.yaml")
    batch = Batch(RECIPES["v2/speech.yaml"], torch.arange(2), torch.zeros(2, dtype=torch.int64))
    output = module.method({"": batch}, 0)[""]
    blocks = module.method.student.trunk.blocks
    blocks.layer_drop = 0.05
    dropping = module.method.flops("", batch, output)
    blocks.layer_drop = 0.0
    all_blocks = module.method.flops("", batch, output)
    rows, visible = output.mask.visible_index.shape
    width = 48
    block = 3 * (2 * rows * visible * 12 * width**2 + 4 * rows * visible**2 * width)
    # If both of the two are drawn to be left out, one stays.
    assert all_blocks - dropping == pytest.approx((2 * 0.05 - 0.05**2) * block, rel=1e-6)

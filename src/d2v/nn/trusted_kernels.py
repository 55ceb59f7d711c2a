"""Which of our own kernels may be used: those that have computed, on this device, what torch computes.

And how torch gets to know the operations that use them, which ``torch.compile`` then leaves as they are.
"""

import warnings
from collections.abc import Callable, Hashable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from d2v.nn import plain_kernels

_AGREED: dict[Hashable, bool] = {}

Trial = Callable[[ModuleType], list[tuple[Tensor, Tensor]]]
"""Runs kernels on a small input, and gives each result beside torch's own."""


def trusted_kernels(x: Tensor, kind: Hashable, trial: Trial) -> ModuleType:
    """``d2v.nn.triton_kernels``, or ``plain_kernels`` where torch's own operations are to be used.

    At the first call for a device, a type and a kind of layer a trial runs. Where a kernel cannot be imported, compiled
    or run, or computes something else, there is one warning, and no kernel is used for that kind from then on: a run
    becomes slower, and does not break.

    Args:
        x: What the kernel would read: its device and type decide.
        kind: All that a kernel is compiled for.
        trial: See :data:`Trial`. It must draw from a generator of its own: those of a run are not to move.
    """
    if not x.is_cuda or x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return plain_kernels
    key = (x.device, x.dtype, kind)
    if key not in _AGREED:
        try:
            if torch.cuda.is_current_stream_capturing():
                return plain_kernels  # a trial waits for the device, which a graph cannot
            with torch.cuda.device_of(x), torch.autocast("cuda", enabled=False):
                if not agrees(trial(import_module("d2v.nn.triton_kernels"))):
                    raise ArithmeticError("it does not compute what torch computes")
            _AGREED[key] = True
        except Exception as error:  # of a compiler, a driver, a missing package: torch can do without any of them
            _AGREED[key] = False
            warnings.warn(f"no Triton kernel for {kind} on {x.device}, torch's own is used: {error!r}", stacklevel=2)
    return import_module("d2v.nn.triton_kernels") if _AGREED[key] else plain_kernels


def agrees(results: list[tuple[Tensor, Tensor]]) -> bool:
    """Whether each pair differs by less than 1% of the largest value, which no rounding of 8 bits reaches."""
    for ours, reference in results:
        error = (ours.float() - reference.float()).abs().max()
        if not bool(error <= 0.01 * reference.float().abs().max()):  # so that NaN disagrees
            return False
    return True


def operation(schema: str, run: Callable, fake: Callable) -> Any:
    """An operation ``torch.ops.d2v.NAME``; ``fake`` gives results of the right shapes and types, without values.

    ``torch.library.custom_op`` would import all of torch's compiler at the first call, 2 seconds.
    """
    name = "d2v::" + schema.partition("(")[0]
    torch.library.define(name, schema.removeprefix(schema.partition("(")[0]))
    torch.library.impl(name, "default", run)
    torch.library.register_fake(name, fake)
    return getattr(torch.ops.d2v, name.removeprefix("d2v::")).default

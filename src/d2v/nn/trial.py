"""Whether a model fits this machine, before it is built: a recipe of a few bytes can ask for any depth and width."""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

_MOST_PARTS = 15_000
"""Modules and tensors: a Transformer of 48 blocks has about 1,500, and 15,000 take seconds."""


class TooLarge(ValueError):
    """A model has more parts than any that can be trained, or takes more memory than there is."""


@contextmanager
def on_trial() -> Iterator[None]:
    """What is built inside has no memory, and is counted.

    Raises:
        TooLarge: It would not fit this machine.
    """
    memory = math.inf
    if hasattr(os, "sysconf"):  # not on Windows
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    parts = size = 0

    def count(module: nn.Module, name: str, value: Any) -> None:
        nonlocal parts, size
        parts += 1
        if isinstance(value, torch.Tensor):
            size += value.nbytes
        if parts > _MOST_PARTS:
            raise TooLarge(f"the model has more than {_MOST_PARTS:,} layers and tensors; lower its depth")
        if size > memory:
            text = f"{size / 1e9:,.0f} GB and more, and this machine has {memory / 1e9:,.0f} GB; lower width or depth"
            raise TooLarge(f"the weights of the model take {text}")

    with ExitStack() as stack:
        stack.enter_context(torch.device("meta"))
        stack.callback(hooks.register_module_parameter_registration_hook(count).remove)
        stack.callback(hooks.register_module_buffer_registration_hook(count).remove)
        stack.callback(hooks.register_module_module_registration_hook(count).remove)
        yield

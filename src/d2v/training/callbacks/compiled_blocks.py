"""Compiles the Transformer blocks of a training, the key ``compile`` of a config."""

from collections.abc import Callable

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from d2v.data.joint import parts_of
from d2v.nn.block import Block

# Graphs that one block may have: with and without gradients, in training and in evaluation, of each encoder. Above
# torch's own limit of 8 it would go on uncompiled with a warning.
_MOST_GRAPHS = 64


class CompiledBlocks(L.Callback):
    """Lets ``torch.compile`` have each block, student's and teacher's, when training starts.

    All blocks of a stack are one graph, which is compiled once, at the first steps. Where samples have different
    lengths it is compiled for any length from the start, so that a new one is nothing new.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        any_length = None  # torch finds out
        for part in parts_of(trainer.datamodule).values():  # type: ignore[attr-defined]
            if part.values_per_unit is not None:
                any_length = True
        count = compile_blocks(pl_module, any_length)
        rank_zero_info(f"compile: {count} blocks; the first steps take longer")


def compile_blocks(module: nn.Module, any_length: bool | None = None, backend: str | Callable = "inductor") -> int:
    """Compile all blocks in ``module`` when they are first called; how many there are.

    Names in the state dict, and so checkpoints, stay as they are.

    Args:
        module: Changed in place.
        any_length: True: the first graph is for all shapes; None: for the first shape, and for all once there is
            another.
        backend: Of ``torch.compile``.
    """
    torch._dynamo.config.recompile_limit = max(_MOST_GRAPHS, torch._dynamo.config.recompile_limit)
    count = 0
    for part in module.modules():
        if isinstance(part, Block):
            part.compile(backend=backend, dynamic=any_length)
            count += 1
    return count

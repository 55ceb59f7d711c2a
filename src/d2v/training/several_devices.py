"""How several devices share a training: what DDP is told, and a strategy that shards the model (FSDP2)."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, ParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from d2v.errors import UserError
from d2v.nn.block import Block
from d2v.nn.transformer import BlockStack


def suit_ddp(trainer: L.Trainer) -> None:
    """Let DDP keep gradients in its buckets, and rely on what our modules hold to: in each step every parameter gets a
    gradient, dropped blocks and frozen encoders included. What the user has set stays."""
    if isinstance(trainer.strategy, DDPStrategy):
        stated = trainer.strategy._ddp_kwargs
        stated.setdefault("gradient_as_bucket_view", True)
        # torch (2.14) fails where a static graph begins with a micro-batch whose gradients are not shared.
        static = trainer.accumulate_grad_batches == 1 and not stated.get("find_unused_parameters")
        stated.setdefault("static_graph", static)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be shared out among the devices, on each of them. All must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class FullySharded(ModelParallelStrategy):
    """Each device keeps a part of each weight of student and teacher, of its gradient and of the optimizer's moments
    (FSDP2, ``torch.distributed.fsdp.fully_shard``). Blocks are put together when they compute; all else of the method
    (extractor, head) for a whole step. The order of samples, masks and losses are those of DDP.

    Checkpoints are files like any other: rank 0 gathers and writes them, and any number of devices can read them.
    Weights and gradients travel in fp32, and bf16-mixed computes as on one device: norms of bf16 weights would differ.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    # As for DDP: the module sees a checkpoint before its optimizer does.

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        assert self.lightning_module is not None
        if not any(isinstance(part, FSDPModule) for part in self.lightning_module.modules()):
            raise UserError(f"trainer.strategy is {FullySharded.__name__}: it is for pretraining; take ddp")
        for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
            loop.inference_mode = False  # weights that it puts together serve training, too
        super().setup(trainer)

    def shard(self, trainer: L.Trainer, method: nn.Module) -> None:
        """Share a method out, once.

        Raises:
            UserError: Part of the config does not work together with this.
        """
        if isinstance(method, FSDPModule):
            return
        _require_shardable(trainer, method)
        mesh = self.device_mesh["data_parallel"]
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")  # nobody writes to it
        for part in method.modules():
            if isinstance(part, Block):
                fully_shard(part, mesh=mesh)
        fully_shard(method, mesh=mesh)

    # Checkpoints.

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self._gathered(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return self._gathered(ParallelStrategy.optimizer_state(self, optimizer))

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        # Mapped: the devices of a machine read the same memory.
        return torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own, state = self.lightning_module.state_dict(), {}
        for name, value in checkpoint["state_dict"].items():
            state[name] = _shared_out_like(own.get(name), value)
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, stored in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters: list[Tensor] = []
            for group in optimizer.param_groups:
                parameters += group["params"]
            state = {}
            for number, values in stored["state"].items():
                like = parameters[number]
                state[number] = {key: _shared_out_like(like, value) for key, value in values.items()}
            optimizer.load_state_dict({**stored, "state": state})

    def _gathered(self, state: dict[str, Any]) -> dict[str, Any]:
        """On rank 0, on the CPU; the other devices only help."""

        def gather(value: Any) -> Any:
            if isinstance(value, DTensor):
                value = value.full_tensor()
                value = value.cpu() if self.is_global_zero else None
            return value

        return tree_map(gather, state)


def _shared_out_like(like: Tensor | None, value: Any) -> Any:
    """This device's part of a whole tensor; what is not shared out, such as the number of a step, as it is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    part = distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return part.clone()  # or it would keep the whole one in memory


def _require_shardable(trainer: L.Trainer, method: nn.Module) -> None:
    reason = ""
    if trainer.precision == "16-mixed":
        reason = "the scale of fp16 is not shared; set trainer.precision to bf16-mixed or 32"
    for part in method.modules():
        if isinstance(part, BlockStack) and part.layer_drop:
            reason = "all devices must compute the same blocks; set layer_drop of the trunk to 0, or take ddp"
    if trainer.state.fn == TrainerFn.PREDICTING:
        reason = "to predict, one device holds the whole encoder; leave it out"
    if reason:
        raise UserError(f"trainer.strategy is {FullySharded.__name__}: {reason}")

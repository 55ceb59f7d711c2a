"""Which parameters decay, how the optimizer is built, and what of it a resumed run takes from its config."""

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from d2v.training.schedules import LRSchedule

MakeOptimizer = Callable[[Iterable], Optimizer]


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Two groups of trainable parameters: matrices and kernels decay, everything else does not.

    Norms, biases, scales, CLS and mask tokens, positions and bias tables are left alone (BEiT's
    ``get_parameter_groups``; fairseq's 2.0 configs do the same by giving 1-d parameters a group of their own).
    """
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        single = parameter.ndim <= 1 or name.endswith(("_token", "table"))
        (no_decay if single else decay).append(parameter)
    return [{"params": decay}, {"params": no_decay, "weight_decay": 0.0}]


def build_optimizer(module: L.LightningModule, optimizer: MakeOptimizer, schedule: LRSchedule) -> OptimizerLRScheduler:
    """What ``configure_optimizers`` returns: the schedule steps with the optimizer."""
    built = optimizer(parameter_groups(module))
    total_steps = module.trainer.max_steps
    if total_steps <= 0:  # the run is bounded by epochs
        total_steps = int(module.trainer.estimated_stepping_batches)
    scheduler = LambdaLR(built, lambda step: schedule.factor(step, total_steps))
    return {"optimizer": built, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def let_config_win(checkpoint: dict[str, Any], module: nn.Module, optimizer: MakeOptimizer) -> None:
    """Put the learning rate, decay and betas of the config given in the place of the checkpoint's."""
    now = optimizer(parameter_groups(module)).param_groups
    for state in checkpoint.get("optimizer_states", []):
        for group, fresh in zip(state["param_groups"], now, strict=True):
            scale = 1.0 if group["initial_lr"] == fresh["lr"] else fresh["lr"] / group["initial_lr"]
            changed = {name: value for name, value in fresh.items() if name not in ("params", "lr")}
            group.update(changed, lr=group["lr"] * scale, initial_lr=fresh["lr"])
    for schedule in checkpoint.get("lr_schedulers", []):
        schedule["base_lrs"] = [group["lr"] for group in now]

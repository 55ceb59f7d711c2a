"""Which parameters decay, how the optimizer is built, and what of it a resumed run takes from its config."""

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from d2v.errors import UserError
from d2v.model.encoder import Encoder
from d2v.training.schedules import LRSchedule

MakeOptimizer = Callable[[Iterable], Optimizer]


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Two groups of trainable parameters: matrices and kernels decay, everything else does not.

    Norms, biases, scales, CLS and mask tokens, positions and bias tables are left alone (BEiT's
    ``get_parameter_groups``; fairseq's 2.0 configs do the same by giving 1-d parameters a group of their own).
    """
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for name, parameter in trained if _decays(name, parameter)]},
        {"params": [parameter for name, parameter in trained if not _decays(name, parameter)], "weight_decay": 0.0},
    ]


def groups_with_rate(module: nn.Module, part: nn.Module, lr_scale: float) -> list[dict[str, Any]]:
    """Groups as of :func:`parameter_groups`, those of ``part`` apart, with ``lr_scale`` times the rate.

    They come last: the first learning rate is the one stated.
    """
    apart = set(part.parameters())
    groups = parameter_groups(module)
    others = [{**group, "params": [p for p in group["params"] if p not in apart]} for group in groups]
    own = [{**group, "params": [p for p in group["params"] if p in apart], "lr_scale": lr_scale} for group in groups]
    return others + own


def layer_decayed_groups(module: nn.Module, encoder: Encoder, decay: float) -> list[dict[str, Any]]:
    """Groups as of :func:`parameter_groups`, two a depth, whose ``lr_scale`` falls by ``decay`` a block downwards.

    The rule of BEiT's ``optim_factory.py``: 1 for the head, the output norm and the bias of attention, ``decay`` for
    the last block, and ``decay ** (L + 1)`` for what lies before the first of L blocks (prenet blocks are blocks).
    fairseq's 2.0 scales the blocks alone. Tables of a bias that each block has for itself are one parameter here,
    beside the blocks; BEiT's have the rate of their block. The head's groups come first: the first learning rate is the
    one stated.

    Args:
        module: Whose parameters to group.
        encoder: A part of it.
        decay: Above 0, at most 1.
    """
    depths = depth_of_parameters(encoder)
    last = len(encoder.front.prenet) + encoder.trunk.depth + 1
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((depths.get(parameter, last), _decays(name, parameter)), []).append(parameter)
    return [
        {"params": groups[key], "lr_scale": decay ** (last - key[0]), **({} if key[1] else {"weight_decay": 0.0})}
        for key in sorted(groups, reverse=True)
    ]


def depth_of_parameters(encoder: Encoder) -> dict[nn.Parameter, int]:
    """0 for what lies before the blocks, 1 to L for those of the blocks, L + 1 for what lies behind or beside them."""
    depths = dict.fromkeys(encoder.parameters(), 0)
    blocks = [*encoder.front.prenet, *encoder.trunk.blocks]
    for number, block in enumerate(blocks, start=1):
        depths.update(dict.fromkeys(block.parameters(), number))
    for part in (encoder.trunk.output_norm, encoder.front.attention_bias):
        if part is not None:
            depths.update(dict.fromkeys(part.parameters(), len(blocks) + 1))
    return depths


def build_optimizer(
    module: L.LightningModule, groups: list[dict[str, Any]], optimizer: MakeOptimizer, schedule: LRSchedule
) -> OptimizerLRScheduler:
    """What ``configure_optimizers`` returns: the schedule steps with the optimizer."""
    built = _scaled(optimizer(groups))
    total_steps = module.trainer.max_steps
    if total_steps <= 0:  # the run is bounded by epochs
        total_steps = int(module.trainer.estimated_stepping_batches)
    scheduler = LambdaLR(built, lambda step: schedule.factor(step, total_steps))
    return {"optimizer": built, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def let_config_win(checkpoint: dict[str, Any], groups: list[dict[str, Any]], optimizer: MakeOptimizer) -> None:
    """Put the learning rate, decay and betas of the config given in the place of the checkpoint's.

    Raises:
        UserError: The parameters are grouped otherwise, as layers with and without rates of their own are.
    """
    now = _scaled(optimizer(groups)).param_groups
    for state in checkpoint.get("optimizer_states", []):
        sizes = [[len(group["params"]) for group in found] for found in (state["param_groups"], now)]
        if sizes[0] != sizes[1]:
            raise UserError(
                "--resume: the optimizer has other groups of parameters than the checkpoint's; give model.layer_decay, "
                "model.head_lr_scale and model.freeze as they were, or start a new run from it with model.checkpoint"
            )
        for group, fresh in zip(state["param_groups"], now, strict=True):
            scale = 1.0 if group["initial_lr"] == fresh["lr"] else fresh["lr"] / group["initial_lr"]
            changed = {name: value for name, value in fresh.items() if name not in ("params", "lr")}
            group.update(changed, lr=group["lr"] * scale, initial_lr=fresh["lr"])
    for schedule in checkpoint.get("lr_schedulers", []):
        schedule["base_lrs"] = [group["lr"] for group in now]


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not name.endswith(("_token", "table"))


def _scaled(optimizer: Optimizer) -> Optimizer:
    """Give groups with an ``lr_scale`` their share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)
    return optimizer

"""Which parameters decay."""

from typing import Any

from torch import nn


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

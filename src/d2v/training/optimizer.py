"""Groups of parameters: which of them decay, and which have a learning rate of their own."""

from typing import Any

from torch import nn

from d2v.model.encoder import Encoder

Groups = list[dict[str, Any]]


def parameter_groups(module: nn.Module) -> Groups:
    """Two groups of trainable parameters: matrices and kernels decay, everything else does not.

    Norms, biases, scales, CLS and mask tokens, positions and bias tables are left alone (BEiT's
    ``get_parameter_groups``; fairseq's 2.0 configs do the same by giving 1-d parameters a group of their own).
    """
    groups: Groups = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups[not _decays(name, parameter)]["params"].append(parameter)
    return groups


def groups_with_rate(module: nn.Module, part: nn.Module, lr_scale: float) -> Groups:
    """Groups as of :func:`parameter_groups`, those of ``part`` apart, with ``lr_scale`` times the rate.

    They come last: the first learning rate is the one stated.
    """
    apart = set(part.parameters())
    groups, own = parameter_groups(module), parameter_groups(part)
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if parameter not in apart]
    for group in own:
        group["lr_scale"] = lr_scale
    return groups + own


def layer_decayed_groups(module: nn.Module, encoder: Encoder, decay: float) -> Groups:
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
    blocks = [*encoder.front.prenet, *encoder.trunk.blocks]
    last = len(blocks) + 1
    # 0 for what lies before the blocks, 1 to L for those of the blocks, L + 1 for what lies behind or beside them.
    depths = dict.fromkeys(encoder.parameters(), 0)
    for number, block in enumerate(blocks, start=1):
        depths.update(dict.fromkeys(block.parameters(), number))
    for part in (encoder.trunk.output_norm, encoder.front.attention_bias):
        if part is not None:
            depths.update(dict.fromkeys(part.parameters(), last))
    found: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            found.setdefault((depths.get(parameter, last), _decays(name, parameter)), []).append(parameter)
    groups: Groups = []
    for depth, decays in sorted(found, reverse=True):
        group: dict[str, Any] = {"params": found[depth, decays], "lr_scale": decay ** (last - depth)}
        if not decays:
            group["weight_decay"] = 0.0
        groups.append(group)
    return groups


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not name.endswith(("_token", "table"))

"""Groups of parameters: which of them decay, and which have a learning rate of their own."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from d2v.model.encoder import Encoder

Groups = list[dict[str, Any]]
Decaying = Literal["matrices", "beit", "all"]
"""What decays. ``matrices``: matrices, kernels and embeddings, but no norm, bias, scale, token, position or bias table.
``beit``: all but vectors, CLS and positions (BEiT's ``get_parameter_groups``: the mask token and the table of relative
positions decay). ``all``: everything, as in fairseq (2.0 means to spare vectors, but ``optim/composite.py`` asks for a
key that is never there)."""


def parameter_groups(module: nn.Module, decaying: Decaying = "matrices") -> Groups:
    """Two groups of trainable parameters: what decays, and what does not."""
    groups: Groups = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups[not _decays(name, parameter, decaying)]["params"].append(parameter)
    return groups


def fuse(optimizer: Optimizer) -> None:
    """Let an Adam or AdamW of torch make its step in one kernel where nobody chose otherwise (``fused``, ``foreach``).

    Torch itself does not choose it: on a CPU it goes through the parameters one by one, on a GPU through lists of them.
    The rounding differs, and nothing else.
    """
    if type(optimizer) not in (Adam, AdamW):
        return
    for group in optimizer.param_groups:
        devices = {parameter.device.type for parameter in group["params"]}
        if group["fused"] is group["foreach"] is None and devices <= {"cpu", "cuda"}:
            group["fused"] = not group["differentiable"]


def groups_with_rates(
    module: nn.Module, lr_scales: Mapping[nn.Module, float], decaying: Decaying = "matrices"
) -> Groups:
    """Groups as of :func:`parameter_groups`, those of some parts apart, with so many times the rate.

    They come last: the first learning rate is the one stated.
    """
    groups, own = parameter_groups(module, decaying), []
    apart: set[nn.Parameter] = set()
    for part, lr_scale in lr_scales.items():
        apart.update(part.parameters())
        for group in parameter_groups(part, decaying):
            own.append({**group, "lr_scale": lr_scale})
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if parameter not in apart]
    return groups + own


def layer_decayed_groups(
    module: nn.Module, encoder: Encoder, decay: float, decaying: Decaying = "matrices", input_too: bool = True
) -> Groups:
    """Groups as of :func:`parameter_groups`, two a depth, whose ``lr_scale`` falls by ``decay`` a block downwards.

    The rule of BEiT's ``optim_factory.py``: 1 for the head, the output norm and the bias of attention, ``decay`` for
    the last block, and ``decay ** (L + 1)`` for what lies before the first of L blocks (prenet blocks are blocks).
    fairseq's 2.0 scales the blocks alone (``input_too`` false). Tables of a bias that each block has for itself are one
    parameter here, beside the blocks; BEiT's have the rate of their block. The head's groups come first: the first
    learning rate is the one stated.

    Args:
        module: Whose parameters to group.
        encoder: A part of it.
        decay: Above 0, at most 1.
        decaying: What has weight decay.
        input_too: Whether the rate of what lies before the blocks falls too.
    """
    blocks = [*encoder.front.prenet, *encoder.trunk.blocks]
    last = len(blocks) + 1
    # 0 for what lies before the blocks, 1 to L for those of the blocks, L + 1 for what lies behind or beside them.
    depths = dict.fromkeys(encoder.parameters(), 0 if input_too else last)
    for number, block in enumerate(blocks, start=1):
        depths.update(dict.fromkeys(block.parameters(), number))
    for part in (encoder.trunk.output_norm, encoder.front.attention_bias):
        if part is not None:
            depths.update(dict.fromkeys(part.parameters(), last))
    found: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            found.setdefault((depths.get(parameter, last), _decays(name, parameter, decaying)), []).append(parameter)
    groups: Groups = []
    for depth, decays in sorted(found, reverse=True):
        group: dict[str, Any] = {"params": found[depth, decays], "lr_scale": decay ** (last - depth)}
        if not decays:
            group["weight_decay"] = 0.0
        groups.append(group)
    return groups


def _decays(name: str, parameter: nn.Parameter, decaying: Decaying) -> bool:
    if decaying == "all":
        return True
    if decaying == "beit":  # whose mask token has the shape [1, 1, D]
        spared = name.endswith(("cls_token", "cls_table", "positions.table"))
        return name.endswith("mask_token") or (parameter.ndim > 1 and not spared)
    return parameter.ndim > 1 and not name.endswith(("_token", "table"))

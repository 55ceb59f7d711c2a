"""Numbers of a config that would train something senseless, or fail with an error that names no key."""

from collections.abc import Iterator
from typing import Any

import jsonargparse

from d2v.errors import UserError

_PROBABILITY = ("lie between 0 and 1, 1 left out", lambda value: 0 <= value < 1)
_POSITIVE = ("be above 0", lambda value: 0 < value < float("inf"))
_AT_LEAST_ONE = ("be at least 1", lambda value: value >= 1)
_NOT_NEGATIVE = ("be 0 or more", lambda value: 0 <= value < float("inf"))
_SHARE = ("lie between 0 and 1", lambda value: 0 <= value <= 1)

_MUST = {
    "layer_drop drop_path dropout attention_dropout activation_dropout input_dropout final_dropout": _PROBABILITY,
    "eps output_eps mlp_ratio projection_ratio layer_scale lr": _POSITIVE,
    "width depth num_heads patch_size image_size decoder_width num_layers kernel_size groups rows span": _AT_LEAST_ONE,
    "num_masks top_k position_layers position_kernel position_groups accumulate_grad_batches": _AT_LEAST_ONE,
    "prenet_depth num_cls mask_noise weight weight_decay gradient_clip_val seed_everything": _NOT_NEGATIVE,
    "end_factor adjust": _SHARE,
}
"""By the names of keys, which mean the same in all of our classes."""


def require_sensible(config: jsonargparse.Namespace) -> None:
    """Check the numbers of a config that is parsed.

    Raises:
        UserError: One of them is out of its range; the message names key, value and range.
    """
    musts = {}
    for names, must in _MUST.items():
        musts.update(dict.fromkeys(names.split(), must))
    for key, value in _numbers(config):
        name = key.rpartition(".")[2]
        if name in musts and not musts[name][1](value):
            raise UserError(f"{key} is {value}: it must {musts[name][0]}.")
    ema = config.get("model.init_args.ema")
    if isinstance(ema, jsonargparse.Namespace) and 1 >= ema.get("start", 0) > ema.get("end", 1):
        text = "the teacher gets slower during a run, so that its decay rises; give the smaller one as start"
        raise UserError(f"model.ema.start is {ema.start} and model.ema.end is {ema.end}: {text}.")


def _numbers(node: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Numbers with their keys as the user writes them, without those of classes that are not ours."""
    if isinstance(node, jsonargparse.Namespace):
        stated = node.get("class_path")
        if isinstance(stated, str) and not stated.startswith(("d2v.", "torch.optim.")):
            return
        for name, value in vars(node).items():
            yield from _numbers(value, key if name == "init_args" else f"{key}.{name}".removeprefix("."))
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield key, node

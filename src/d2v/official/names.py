"""From the names and shapes of official tensors to ours and back, and what they tell of a Transformer."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from d2v.checkpoints.folder import StateDict
from d2v.errors import UserError
from d2v.model.teacher import Part

SHAREABLE: tuple[str, ...] = get_args(Part)
"""Parts of the front end that a teacher may borrow from the student: all that stands before the blocks."""

Rule = Callable[[str], str | None]
"""From the official name of a tensor to ours; None: nothing of ours."""
Rows = Iterable[tuple[str, str]]
"""(pattern of official names, what stands in its place in ours); those of Hugging Face are also read backwards, and
have groups, escaped dots, ^ and $ only."""

_TIMM_BLOCK_PARTS = (
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"\.gamma_(\d)$", r".scale\1.gamma"),
    (r"\.q_bias$", ".query_bias"),
    (r"\.v_bias$", ".value_bias"),
)
_WRAPPERS = ("module.", "backbone.", "model.", "w2v_encoder.w2v_model.", "d2v_model.")
"""Prefixes of DDP, of fairseq's classifiers of pictures, recognisers and classifiers of clips, around a pretrained
model."""


def model_state(content: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict of a checkpoint, without the prefixes of wrappers: its "model", "module" (DeepSpeed) or
    "state_dict", or all of it."""
    state = content
    for key in ("model", "module", "state_dict"):
        if isinstance(content.get(key), dict):
            state = content[key]
            break
    unwrapped = {}
    for name in state:
        if isinstance(name, str):
            short = name
            for prefix in _WRAPPERS:
                short = short.removeprefix(prefix)
            unwrapped[short] = state[name]
    return unwrapped


def without_prefix(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """All tensors; names that begin with ``prefix`` lose it."""
    return {name.removeprefix(prefix): value for name, value in state.items()}


def given(settings: Any) -> dict[str, Any]:
    """A section of settings without the keys that are null; the default of its code stands for those."""
    if not isinstance(settings, dict):
        return {}
    return {key: value for key, value in settings.items() if value is not None}


def rename(state: Mapping[str, Any], rule: Rule, prefix: str = "") -> tuple[StateDict, list[str]]:
    """Rename tensors; returns them in fp32 under ``prefix``, and the names that ``rule`` does not know."""
    renamed: StateDict = {}
    unknown: list[str] = []
    for name, value in state.items():
        new = rule(name)
        if new is None or not isinstance(value, Tensor) or value.is_complex():
            unknown.append(name)
        else:
            renamed[prefix + new] = value.float()
    return renamed, unknown


def by_rows(rows: Rows, prefix: str = "") -> Rule:
    """The rule that takes the first row whose pattern is found in a name, and puts ``prefix`` before it."""

    def rule(name: str) -> str | None:
        new = first_match(name, rows)
        return None if new is None else prefix + new

    return rule


def first_match(name: str, rows: Rows) -> str | None:
    """``name`` rewritten by the first row whose pattern is found in it, parts of a timm-style block in our names."""
    for pattern, replacement in rows:
        if re.search(pattern, name):
            name = re.sub(pattern, replacement, name)
            for part, ours in _TIMM_BLOCK_PARTS:
                name = re.sub(part, ours, name)
            return name
    return None


def official_names(weights: StateDict, rows: Rows) -> StateDict:
    """Tensors under their official names, by rows read backwards. Each must have a row: what the official model has no
    place for is refused before.

    Args:
        weights: By our names, without a prefix.
        rows: Of one model.
    """
    backwards = [_backwards(*row) for row in rows]
    return {_renamed_back(name, backwards): value for name, value in weights.items()}


def _renamed_back(name: str, backwards: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in backwards:
        if pattern.match(name):
            return pattern.sub(replacement, name, count=1)
    raise ValueError(f"no official name for {name}")


def _backwards(pattern: str, replacement: str) -> tuple[re.Pattern[str], str]:
    r"""`^a\.(\d+)\.b\.` and `x.\1.y.` to `^x\.(\d+)\.y\.` and `a.\1.b.`"""
    groups = re.findall(r"\([^)]*\)", pattern)
    ours = re.escape(replacement)
    for number, group in enumerate(groups, 1):
        ours = ours.replace(rf"\\{number}", group)
        pattern = pattern.replace(group, rf"\{number}", 1)
    if pattern.endswith("$"):
        ours += "$"
    return re.compile(f"^{ours}"), pattern.removeprefix("^").removesuffix("$").replace(r"\.", ".")


def join_qkv(weights: StateDict) -> None:
    """Join the projections of queries, keys and values, which 1.0 keeps apart, into one each block. In place.

    Raises:
        UserError: One of the three is missing or odd.
    """
    for name in list(weights):
        if ".attention.q_proj." not in name:
            continue
        parts = [name.replace(".q_proj.", f".{letter}_proj.") for letter in "qkv"]
        found = [weights.pop(part) for part in parts if part in weights]
        if len(found) < 3 or len({value.shape for value in found}) > 1:
            raise UserError(f"the checkpoint is not whole: of {', '.join(parts)} one is missing or odd")
        weights[name.replace(".q_proj.", ".qkv.")] = torch.cat(found)


def split_qkv(weights: StateDict) -> StateDict:
    """The joined projection of queries, keys and values as three: the opposite of :func:`join_qkv`."""
    split: StateDict = {}
    for name, value in weights.items():
        if ".attention.qkv." not in name:
            split[name] = value
            continue
        for letter, part in zip("qkv", value.chunk(3), strict=True):
            split[name.replace(".qkv.", f".{letter}_proj.")] = part
    return split


def trunk_sizes(weights: StateDict) -> dict[str, Any]:
    """Arguments of the trunk that the student's tensors tell.

    Raises:
        UserError: The first block is not whole.
    """
    hidden, width = tensor(weights, "student.trunk.blocks.0.mlp.0.weight", dims=2).shape
    depth = count(weights, r"student\.trunk\.blocks\.(\d+)\.")
    return {"width": width, "depth": depth, "mlp_ratio": mlp_ratio(hidden, width)}


def mlp_ratio(hidden: int, width: int) -> float:
    """The argument ``mlp_ratio`` of a block whose feed-forward network is ``hidden`` wide."""
    ratio = hidden / width
    if int(width * ratio) != hidden:  # the block rounds down
        ratio = (hidden + 0.5) / width
    return ratio


def count(names: Iterable[str], pattern: str) -> int:
    """How many different values the group of ``pattern`` has at the beginning of ``names``."""
    found = set()
    for name in names:
        if match := re.match(pattern, name):
            found.add(match[1])
    return len(found)


def tensor(weights: StateDict, name: str, dims: int) -> Tensor:
    """The tensor of that name in our terms.

    Raises:
        UserError: It is not there, or has another number of dimensions.
    """
    if name not in weights or weights[name].ndim != dims:
        raise UserError(f"the checkpoint is not whole: the tensor that becomes {name} is missing or odd")
    return weights[name]


def expect_shape(value: Tensor, dims: int, source: str) -> Tensor:
    """``value``, if it has so many dimensions.

    Raises:
        UserError: It has not; the message names ``source``.
    """
    if value.ndim != dims or 0 in value.shape:
        raise UserError(f"the checkpoint's {source} has the shape {list(value.shape)}: {dims} dimensions were expected")
    return value

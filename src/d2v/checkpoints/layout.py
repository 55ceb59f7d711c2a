"""What every importer makes of a foreign checkpoint, and what reading a Vision Transformer's tensors needs."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from d2v.checkpoints.recipe import build
from d2v.errors import UserError
from d2v.model.data2vec import Data2Vec

StateDict = dict[str, Tensor]

_TIMM_BLOCK_PARTS = (
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"\.gamma_(\d)$", r".scale\1.gamma"),
    (r"\.q_bias$", ".query_bias"),
    (r"\.v_bias$", ".value_bias"),
)


@dataclass(frozen=True)
class Imported:
    """A checkpoint in our terms."""

    layout: str
    """Where it comes from, in words."""
    licence: str
    method: dict[str, Any]
    """Arguments of :class:`Data2Vec`, parts as recipe nodes."""
    ema: dict[str, Any]
    """Arguments of the EMA decay schedule."""
    weights: StateDict
    """State dict of :class:`Data2Vec`; without a teacher or a head if the checkpoint has none."""
    left_out: list[str] = field(default_factory=list)
    """Entries of the source that nothing of ours corresponds to."""
    notes: list[str] = field(default_factory=list)
    """What the user should know: values that contradict each other, that had to be guessed, or that we cannot keep."""


def build_method(method: Mapping[str, Any]) -> Data2Vec:
    """Build the method from plain values, as ``config.json`` holds them.

    Raises:
        UserError: A part is missing, is none of ours, or refuses its arguments.
    """
    try:
        parts = {name: build(method[name]) for name in ("student", "masking", "targets", "loss")}
        return Data2Vec(
            **parts,
            head=lambda width: build(method["head"], width),
            cls_loss=build(method["cls_loss"]) if method.get("cls_loss") else None,
            num_masks=method["num_masks"],
            shared_with_teacher=method["shared_with_teacher"],
        )
    except KeyError as error:
        raise UserError(f"the recipe of the method has no {error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the recipe of the method cannot be built: {error}") from error


def model_state(content: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict of a checkpoint: its "model", "module" (DeepSpeed) or "state_dict", or all of it.

    The prefixes of DDP (``module.``) and of fairseq's classifiers around a pretrained model (``model.``) are removed.
    """
    wrapped = (content[key] for key in ("model", "module", "state_dict") if isinstance(content.get(key), dict))
    state = next(wrapped, content)
    return {key.removeprefix("module.").removeprefix("model."): state[key] for key in state if isinstance(key, str)}


def given(settings: Any) -> dict[str, Any]:
    """A section of settings without the keys that are null; the default of its code stands for those."""
    return {key: value for key, value in settings.items() if value is not None} if isinstance(settings, dict) else {}


def one_norm(asked: Mapping[str, Any], where: str, notes: list[str]) -> str | None:
    """The norm, of those that are asked for in this order, that ours can do; ``notes`` tells what is lost."""
    names = [name for name, on in asked.items() if on]
    ours = [name for name in names if name != "batch"]
    kept = ours[-1] if ours else None  # of two, the later one decides what the targets look like
    if names not in ([], [kept]):
        notes.append(
            f"norms {where}: {' and '.join(names)} are asked for, {kept} is kept; d2v has one, and no batch norm"
        )
    return kept


def rename(
    state: Mapping[str, Any], rule: Callable[[str], str | None], prefix: str = ""
) -> tuple[StateDict, list[str]]:
    """Rename tensors; returns them in fp32 under ``prefix``, and the names that ``rule`` does not know."""
    renamed: StateDict = {}
    unknown: list[str] = []
    for name, value in state.items():
        new = rule(name)
        if new is None or not isinstance(value, Tensor):
            unknown.append(name)
        else:
            renamed[prefix + new] = value.float()
    return renamed, unknown


def first_match(key: str, patterns: Iterable[tuple[str, str]]) -> str | None:
    """``key`` rewritten by the first pattern that it matches, the parts of a timm-style block in our names."""
    for pattern, replacement in patterns:
        if re.search(pattern, key):
            key = re.sub(pattern, replacement, key)
            for part, ours in _TIMM_BLOCK_PARTS:
                key = re.sub(part, ours, key)
            return key
    return None


def sizes(weights: StateDict) -> dict[str, Any]:
    """Arguments of a ``VisionEncoder`` that the student's tensors tell.

    Raises:
        UserError: The patch embedding or the first block is missing.
    """
    patches = _tensor(weights, "student.feature_extractor.proj.weight", dims=4)  # [D, 3, p, p]
    hidden = len(_tensor(weights, "student.transformer.blocks.0.mlp.0.weight", dims=2))  # [hidden, D]
    width, in_channels, patch_size, _ = patches.shape
    ratio = hidden / width
    return {
        "patch_size": patch_size,
        "in_channels": in_channels,
        "width": width,
        "depth": count(weights, r"student\.transformer\.blocks\.(\d+)\."),
        "mlp_ratio": ratio if int(width * ratio) == hidden else (hidden + 0.5) / width,  # the block rounds down
    }


def image_size(grid: tuple[int, int], patch_size: int) -> int | list[int]:
    """Size in pixels of a grid of patches, as ``VisionEncoder`` takes it."""
    rows, columns = grid
    return rows * patch_size if rows == columns else [rows * patch_size, columns * patch_size]


def count(names: Iterable[str], pattern: str) -> int:
    """How many different values the group of ``pattern`` has at the beginning of ``names``."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def square(tokens: int) -> tuple[int, int]:
    """The square grid of so many tokens.

    Raises:
        UserError: They are no square.
    """
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UserError(f"{tokens} positions are no square: the grid of patches cannot be known")
    return side, side


def _tensor(weights: StateDict, name: str, dims: int) -> Tensor:
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

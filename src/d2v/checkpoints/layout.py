"""What every importer makes of a foreign checkpoint, and what reading a Transformer's tensors needs."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from d2v.checkpoints.recipe import build, build_encoder
from d2v.errors import UserError
from d2v.model.data2vec import Data2Vec
from d2v.model.task import Task
from d2v.model.teacher import Part

StateDict = dict[str, Tensor]

SHAREABLE: tuple[str, ...] = get_args(Part)
"""Parts that a teacher may borrow from the student: all that stands before the blocks."""

_TIMM_BLOCK_PARTS = (
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"\.gamma_(\d)$", r".scale\1.gamma"),
    (r"\.q_bias$", ".query_bias"),
    (r"\.v_bias$", ".value_bias"),
)


@dataclass(frozen=True)
class CTCHead:
    """The linear layer of a fine-tuned recogniser."""

    weight: Float[Tensor, "s d"]
    bias: Float[Tensor, "s"]
    symbols: tuple[str, ...] | None = None
    """What each output stands for, the blank first; None: not known."""


ClassifierTask = Literal["single", "multi", "regression"]
"""One class each, any number of labels, or a score."""


@dataclass(frozen=True)
class ImportedClassifier:
    """The head of a fine-tuned classifier, as ``finetuning/classifier_heads.py`` has it."""

    kind: Literal["linear", "tanh"]
    weights: StateDict
    """State dict of our head: ``norm`` (where it has one), ``hidden`` (tanh), ``proj``; weight and bias of each."""
    pool: Literal["mean", "cls"]
    """What it was trained to read."""
    names: tuple[str, ...] | None
    """Of its classes; None: not known, they are called by their numbers."""
    task: ClassifierTask


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
    example: str
    """How features are taken, as Python that follows ``features = ``."""
    sizes: dict[str, Any] = field(default_factory=dict)
    """What is worth showing of the encoder beside its width, blocks and heads."""
    ctc: CTCHead | None = None
    """The head of a recogniser, if it is one."""
    classifier: ImportedClassifier | None = None
    """The head of a classifier, if it is one that ours can be."""
    assets: dict[str, str] = field(default_factory=dict)
    """Text files of the encoder that the source holds, by name."""
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
        parts = {name: build(method[name]) for name in ("masking", "targets", "loss")}
        student = build_encoder(method["student"])
        task = Task(
            student,
            **parts,
            head=lambda width: build(method["head"], width),
            cls_loss=build(method["cls_loss"]) if method.get("cls_loss") else None,
            num_masks=method["num_masks"],
            shared_with_teacher=method["shared_with_teacher"],
        )
        return Data2Vec(student, task)
    except KeyError as error:
        raise UserError(f"the recipe of the method has no {error}") from error
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"the recipe of the method cannot be built: {error}") from error


def model_state(content: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict of a checkpoint: its "model", "module" (DeepSpeed) or "state_dict", or all of it.

    The prefixes of DDP (``module.``), of fairseq's classifiers (``model.``) and of its recognisers
    (``w2v_encoder.w2v_model.``) around a pretrained model are removed.
    """
    wrapped = (content[key] for key in ("model", "module", "state_dict") if isinstance(content.get(key), dict))
    state = next(wrapped, content)
    return {_unwrapped(key): state[key] for key in state if isinstance(key, str)}


def _unwrapped(key: str) -> str:
    for prefix in ("module.", "model.", "w2v_encoder.w2v_model."):
        key = key.removeprefix(prefix)
    return key


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


def join_qkv(weights: StateDict) -> None:
    """Join the projections of queries, keys and values, which 1.0 keeps apart, into one each block. In place.

    Raises:
        UserError: One of the three is missing or odd.
    """
    for name in [name for name in weights if ".attention.q_proj." in name]:
        parts = [name.replace(".q_proj.", f".{letter}_proj.") for letter in "qkv"]
        found = [weights.pop(part) for part in parts if part in weights]
        if len(found) < 3 or len({value.shape for value in found}) > 1:
            raise UserError(f"the checkpoint is not whole: of {', '.join(parts)} one is missing or odd")
        weights[name.replace(".q_proj.", ".qkv.")] = torch.cat(found)


def mlp_ratio(hidden: int, width: int) -> float:
    """The argument ``mlp_ratio`` of a block whose feed-forward network is ``hidden`` wide."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width  # the block rounds down


def count(names: Iterable[str], pattern: str) -> int:
    """How many different values the group of ``pattern`` has at the beginning of ``names``."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


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

"""fairseq data2vec 1.0: what speech and text, whose Transformers are fairseq's own, have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from d2v.checkpoints.folder import StateDict, prefixed
from d2v.checkpoints.recipe import node
from d2v.official.imported import Imported, Recipe

BLOCK_ROWS = (
    (r"^(?:encoder\.)?layers\.(\d+)\.self_attn\.([qkv])_proj\.", r"trunk.blocks.\1.attention.\2_proj."),
    (r"^(?:encoder\.)?layers\.(\d+)\.self_attn\.out_proj\.", r"trunk.blocks.\1.attention.proj."),
    (r"^(?:encoder\.)?layers\.(\d+)\.self_attn_layer_norm\.", r"trunk.blocks.\1.norm1."),
    (r"^(?:encoder\.)?layers\.(\d+)\.final_layer_norm\.", r"trunk.blocks.\1.norm2."),
    (r"^(?:encoder\.)?layers\.(\d+)\.fc1\.", r"trunk.blocks.\1.mlp.0."),
    (r"^(?:encoder\.)?layers\.(\d+)\.fc2\.", r"trunk.blocks.\1.mlp.2."),
)
"""Of one layer; for :func:`~d2v.official.names.first_match`."""


def share_copies(teacher: StateDict, weights: StateDict, parts: Sequence[str], notes: list[str]) -> list[str]:
    """The parts that fairseq copies from the student into the teacher at each step instead of averaging them.

    Args:
        teacher: Loses the tensors of those parts, if they are copies.
        weights: With the student's tensors.
        parts: Those that the settings name.
        notes: Extended by the parts that are no copies.

    Returns:
        The parts to share.
    """
    shared, averaged = [], []
    for part in parts:
        tensors = prefixed(teacher, f"teacher.encoder.front.{part}.")
        are_copies = True
        for name, value in tensors.items():
            are_copies &= _is_copy(value, weights.get(name.replace("teacher.encoder.", "student.")))
        if are_copies:
            shared.append(part)
            for name in tensors:
                del teacher[name]
        else:
            averaged.append(part)
    if averaged:
        notes.append(
            f"the teacher's {', '.join(averaged)} are not the student's, though fairseq copies them by these settings: "
            "they are averaged instead"
        )
    return shared


def _is_copy(value: torch.Tensor, original: torch.Tensor | None) -> bool:
    """Whether a tensor is a copy, but for the rounding of a checkpoint in half precision."""
    return (
        original is not None and value.shape == original.shape and torch.allclose(value, original, rtol=1e-3, atol=1e-6)
    )


def num_heads(settings: Mapping[str, Any], key: str, found: Imported) -> int:
    """H by the setting; where there is none, heads of width 64, with a note."""
    if key in settings:
        return int(settings[key])
    heads = max(1, found.width // 64)
    found.notes.append(f"the number of heads is not in the file: taken as {heads}, heads of width 64")
    return heads


def span_masking(
    settings: Mapping[str, Any], published: tuple[float, int], shared_by: int | None, notes: list[str]
) -> Recipe:
    """Recipe of 1.0's masking.

    Args:
        settings: With fairseq's or Hugging Face's ``mask_prob`` and ``mask_length``.
        published: These two of the published Base run.
        shared_by: Of speech: tokens of the published batch, whose rows all have as many masked as the one with fewest.
        notes: Extended if the settings make no sense.
    """
    probability, span = settings.get("mask_prob", published[0]), settings.get("mask_length", published[1])
    if not (isinstance(span, int) and span > 0 and isinstance(probability, (int, float)) and 0 < probability <= span):
        notes.append(
            f"mask_prob {probability} of spans of {span} makes no sense: the published {published[0]} of spans of "
            f"{published[1]} is taken"
        )
        probability, span = published
    return node(
        "d2v.model.masking.RandomSpanMasking",
        mask_prob=probability,
        span=span,
        shared_by=shared_by,
        inside=shared_by is not None,
    )

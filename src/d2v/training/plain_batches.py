"""Batches as DataLoaders of other people give them, made a :class:`~d2v.types.Batch`."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from d2v.data.normalisation import normalised
from d2v.errors import UserError, some_of
from d2v.model.encoder import Encoder
from d2v.types import Batch

_INPUTS = ("inputs", "x", "pixel_values", "input_values", "input_features", "input_ids", "image", "images", "audio")
_LABELS = ("labels", "label", "targets", "target", "y")
"""Names in a batch that is a dict; the first one found is taken."""


def as_batch(batch: Any, encoder: Encoder, number: int = 0, epoch: int = 0) -> Batch:
    """A batch from any loader; one of d2v only has its pixels normalised.

    Args:
        batch: Inputs of the encoder, a list or tuple that begins with them and perhaps goes on with labels, or a dict
            of them as Hugging Face's collators make it (an ``attention_mask`` is 1 where there is no padding).
        encoder: Reads the batch.
        number: Of the batch in its epoch: samples are numbered on from there, and masks are drawn by these ids.
        epoch: How often the data have been passed through.

    Raises:
        UserError: It is none of these, or the inputs have not the shape or the type that the encoder reads.
    """
    if isinstance(batch, Batch):
        return batch._replace(inputs=normalised(batch.inputs, encoder.assets))
    inputs, labels, padding_mask = batch, None, None
    if isinstance(batch, Mapping):
        inputs, labels = _named(batch, _INPUTS), _named(batch, _LABELS)
        if isinstance(batch.get("attention_mask"), Tensor):
            padding_mask = batch["attention_mask"] == 0
    elif isinstance(batch, Sequence) and len(batch):
        inputs, labels = batch[0], (*batch[1:], None)[0]
    if not isinstance(inputs, Tensor) or inputs.ndim < 1:
        names = ""
        if isinstance(batch, Mapping):
            names = f" with {some_of(list(map(str, batch)), 8)}"
        raise UserError(
            f"the DataLoader gives batches of type {type(batch).__name__}{names}; give a tensor, a tuple that begins "
            f"with one, a dict with {' or '.join(_INPUTS)}, or a d2v.types.Batch"
        )
    inputs = _fitting(inputs, encoder)
    ids = number * len(inputs) + torch.arange(len(inputs), device=inputs.device)
    return Batch(inputs, ids, torch.full_like(ids, epoch), labels if isinstance(labels, Tensor) else None, padding_mask)


def _named(batch: Mapping[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        if name in batch:
            return batch[name]
    return None


def _fitting(inputs: Tensor, encoder: Encoder) -> Tensor:
    """The inputs in the type that the encoder reads, and clips without their only channel."""
    try:
        wanted = encoder.front.example_inputs()
    except UserError:  # a front end need not say what it reads
        return inputs
    with torch.random.fork_rng(devices=[]):
        example = wanted.make(1, 0)[0]
    if example.ndim == 2 and inputs.ndim == 3 and inputs.shape[1] == 1:
        inputs = inputs[:, 0]
    same_kind = inputs.is_floating_point() == example.is_floating_point()
    if not same_kind or inputs.ndim != example.ndim or inputs.shape[1:-2] != example.shape[1:-2]:
        found = f"{str(inputs.dtype).removeprefix('torch.')} {list(inputs.shape)}"
        raise UserError(f"the DataLoader gives {found}, and the encoder reads {wanted.described}")
    return inputs.to(example.dtype)

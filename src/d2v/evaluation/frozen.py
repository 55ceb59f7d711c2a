"""Frozen encoders: their device, eval mode, and the features of a labelled data set."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from d2v.data.normalisation import normalised
from d2v.errors import UserError
from d2v.model.encoder import Encoder, Layer
from d2v.progress_bar import Progress
from d2v.types import Batch


@dataclass(frozen=True)
class LabelledFeatures:
    """One vector and one class a sample, on the CPU; n samples, width D."""

    features: Float[Tensor, "n d"]
    labels: Int64[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.labels)


def extract_features(
    encoder: Encoder,
    loader: Iterable[Batch],
    device: torch.device | str,
    layer: Layer = None,
    pool: Literal["mean", "cls"] = "mean",
    autocast: torch.dtype | None = None,
    progress: bool = True,
    description: str = "features",
) -> LabelledFeatures:
    """Encode every batch of a loader, without gradients and in eval mode, which is undone afterwards.

    Args:
        encoder: Already on ``device``.
        loader: Batches with labels.
        device: Where the encoder is.
        layer: As in :meth:`Encoder.embed`.
        pool: As in :meth:`Encoder.embed`.
        autocast: Precision for autocast (``torch.bfloat16``); None: that of the weights.
        progress: Show a bar on stderr, if that is a terminal.
        description: Text in front of the bar.

    Raises:
        UserError: There is no batch, a batch has no labels, or the encoder has no such layer or no CLS token.
    """
    features: list[Tensor] = []
    labels: list[Tensor] = []
    device = torch.device(device)
    casting = torch.autocast(device.type, dtype=autocast, enabled=autocast is not None)
    with eval_mode(encoder), torch.no_grad(), casting:
        for batch in Progress(loader, desc=description, unit="batch", disable=not progress, leave=False):
            if batch.labels is None:
                raise UserError(f"data: there are no labels for the {description}, and a probe needs them.")
            if batch.labels.ndim != 1 or batch.labels.is_floating_point():
                raise UserError(
                    "data: a probe needs one class a sample, and these have several labels, a text or a score each; of "
                    "sound, data.labels is folder, speaker, label or a table"
                )
            inputs, padding_mask = batch.inputs.to(device, non_blocking=True), batch.padding_mask
            if padding_mask is not None:
                padding_mask = padding_mask.to(device, non_blocking=True)
            try:
                embedded = encoder.embed(normalised(inputs, encoder.assets), layer, pool, padding_mask)
            except ValueError as error:
                raise UserError(f"layer {layer}, pool {pool}: {error}") from error
            features.append(embedded.float().cpu())
            labels.append(batch.labels.cpu())
    if not features:
        raise UserError("data: there is not a single sample to probe on.")
    return LabelledFeatures(torch.cat(features), torch.cat(labels))


def find_device(name: str) -> torch.device:
    """The device of this name, such as ``cpu``, ``cuda:1`` or ``mps``; ``auto``: a GPU if there is one.

    Raises:
        UserError: This machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: this machine has no such device; leave it out, or use cpu") from error
    return device


@contextmanager
def eval_mode(encoder: Encoder) -> Iterator[None]:
    """Eval mode inside the block; afterwards each module is in the mode that it was in before."""
    parts = {*encoder.modules(), *encoder.trunk.modules()}  # a shared trunk is no child of the encoder
    modes = [(part, part.training) for part in parts]
    encoder.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training

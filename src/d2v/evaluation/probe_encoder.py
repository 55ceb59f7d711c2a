"""Both probes on one encoder: what `d2v probe` and the callback of a training share."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from d2v.errors import UserError
from d2v.evaluation.frozen import LabelledFeatures, extract_features
from d2v.evaluation.knn import knn_top1
from d2v.evaluation.linear_probe import UNPENALISED, LinearProbe, linear_probe
from d2v.model.encoder import Encoder, Layer
from d2v.types import Batch

_HELD_OUT = 0.2


@dataclass(frozen=True)
class ProbeResult:
    """Accuracies in percent on the validation samples."""

    knn_top1: float
    train_samples: int
    val_samples: int
    linear: LinearProbe | None = None
    """None if it was not wanted."""
    linear_unpenalised: LinearProbe | None = None
    """The same with hardly any penalty; None if it was not wanted."""


def probe_encoder(
    encoder: Encoder,
    train_loader: Iterable[Batch],
    val_loader: Iterable[Batch] | None,
    device: torch.device | str,
    layer: Layer = None,
    pool: Literal["mean", "cls"] = "mean",
    k: int = 20,
    linear: bool = True,
    unpenalised: bool = False,
    autocast: torch.dtype | None = None,
    progress: bool = True,
) -> ProbeResult:
    """Extract the features of both splits and classify the second by the first; see the parts for the arguments.

    Without a second one, a fixed fifth of each class is held out.

    Raises:
        UserError: There are fewer than two classes, or there is nothing to hold out.
    """
    train = extract_features(encoder, train_loader, device, layer, pool, autocast, progress, "train features")
    if val_loader is None:
        train, val = _hold_out(train)
    else:
        val = extract_features(encoder, val_loader, device, layer, pool, autocast, progress, "val features")
    if len(train.labels.unique()) < 2:
        raise UserError("data: all samples are of one class, and a probe needs two")
    result = ProbeResult(knn_top1(train, val, k, device=device), len(train), len(val))
    if linear:
        result = replace(result, linear=linear_probe(train, val, device))
    if unpenalised:
        result = replace(result, linear_unpenalised=linear_probe(train, val, device, (UNPENALISED,)))
    return result


def _hold_out(samples: LabelledFeatures) -> tuple[LabelledFeatures, LabelledFeatures]:
    """A part to fit on and one to report on: a fifth of each class, at least one of two samples."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    held_out = torch.zeros(len(samples), dtype=torch.bool)
    for label in samples.labels.unique():
        members = order[samples.labels[order] == label]
        if len(members) > 1:
            held_out[members[: max(1, round(len(members) * _HELD_OUT))]] = True
    if not held_out.any():
        raise UserError("data: no class has two samples, so none can be held out; a probe needs more of each class")
    parts = [LabelledFeatures(samples.features[rows], samples.labels[rows]) for rows in (~held_out, held_out)]
    return parts[0], parts[1]

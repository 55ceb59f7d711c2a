"""Both probes on one encoder: what `d2v probe` and the callback of a training share."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from d2v.evaluation.frozen import extract_features
from d2v.evaluation.knn import knn_top1
from d2v.evaluation.linear_probe import UNPENALISED, LinearProbe, linear_probe
from d2v.model.encoder import Encoder, Layer
from d2v.types import Batch


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
    val_loader: Iterable[Batch],
    device: torch.device | str,
    layer: Layer = None,
    pool: Literal["mean", "cls"] = "mean",
    k: int = 20,
    linear: bool = True,
    unpenalised: bool = False,
    autocast: torch.dtype | None = None,
    progress: bool = True,
) -> ProbeResult:
    """Extract the features of both splits and classify the second by the first; see the parts for the arguments."""
    train = extract_features(encoder, train_loader, device, layer, pool, autocast, progress, "train features")
    val = extract_features(encoder, val_loader, device, layer, pool, autocast, progress, "val features")
    result = ProbeResult(knn_top1(train, val, k, device=device), len(train), len(val))
    if linear:
        result = replace(result, linear=linear_probe(train, val, device))
    if unpenalised:
        result = replace(result, linear_unpenalised=linear_probe(train, val, device, (UNPENALISED,)))
    return result

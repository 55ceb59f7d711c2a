"""The directions in which a set of features differs most: as colours, and how much each of them has."""

import torch
from jaxtyping import Float
from torch import Tensor


def principal_colours(features: Float[Tensor, "b n d"]) -> Float[Tensor, "b n 3"]:
    """Projection on the first three principal components of all tokens, 0..1 between the 1st and 99th percentile."""
    flat = features.flatten(0, 1)
    flat = flat - flat.mean(dim=0)
    axes = torch.linalg.eigh(flat.T @ flat).eigenvectors[:, -3:].flip(1)  # [D, 3], strongest first
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    projected = flat @ (axes * largest.sign())  # the sign of an axis is arbitrary; this makes it reproducible
    low, high = projected.quantile(0.01, dim=0), projected.quantile(0.99, dim=0)
    return ((projected - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).view(*features.shape[:2], 3)


def spectrum(features: Float[Tensor, "n d"]) -> Float[Tensor, "k"]:
    """The share of the variance that each principal direction has, the largest first; k is ``min(n - 1, d)``."""
    centred = (features - features.mean(dim=0)).double()
    variances = torch.linalg.svdvals(centred).square()[: max(1, len(features) - 1)]
    return (variances / variances.sum().clamp(min=torch.finfo(variances.dtype).tiny)).float()

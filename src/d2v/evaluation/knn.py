"""k nearest neighbours on frozen features, as DINO evaluates them (Caron et al. 2021, appendix F; Wu et al. 2018)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from d2v.evaluation.frozen import LabelledFeatures

_TEMPERATURE = 0.07
_CHUNK_NUMBERS = 2**25
"""Similarities held at once: 128 MiB in fp32."""


def knn_top1(train: LabelledFeatures, val: LabelledFeatures, k: int = 20, device: torch.device | str = "cpu") -> float:
    """Top-1 accuracy in percent of the validation samples by their neighbours among the training samples."""
    predicted = knn_predict(train.features.to(device), train.labels.to(device), val.features.to(device), k)
    return (predicted == val.labels.to(device)).float().mean().item() * 100


def knn_predict(
    bank: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], queries: Float[Tensor, "q d"], k: int = 20
) -> Int64[Tensor, "q"]:
    """Class of each query: its k most similar neighbours vote with weight ``exp(cosine / 0.07)``.

    Args:
        bank: Features whose classes are known.
        labels: Their classes.
        queries: Features to classify.
        k: Neighbours; all of the bank if it has fewer.
    """
    k = min(k, len(bank))
    num_classes = int(labels.max()) + 1
    bank = F.normalize(bank, dim=1).T  # [D, n]
    predictions: list[Tensor] = []
    for chunk in queries.split(max(1, _CHUNK_NUMBERS // len(labels))):
        similarity, index = (F.normalize(chunk, dim=1) @ bank).topk(k, dim=1)  # [q, n] -> [q, k]
        votes = torch.zeros(len(chunk), num_classes, device=bank.device)
        votes.scatter_add_(1, labels[index], (similarity / _TEMPERATURE).exp())  # [q, classes]
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)

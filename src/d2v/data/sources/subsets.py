"""Fixed parts of a data set, the same in every run whatever its seed: what is held out, which labels are used."""

from collections.abc import Sequence

import numpy as np
import torch

# Not data.seed: runs with other seeds must be validated on the same samples, and trained on the same labels. A probe
# must never be tested on what another run was trained on.
HOLD_OUT_SEED, SUBSET_SEED = 0, 1


def permutation(count: int, seed: int) -> np.ndarray:
    """Numbers from 0 to ``count - 1`` in an order that depends on the seed alone."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()


def balanced_subset(labels: Sequence[str] | np.ndarray | None, total: int, count: int) -> np.ndarray:
    """Positions of a subset, ascending: of each class as many, as far as there are so many.

    A smaller subset of the same data lies in a larger one.

    Args:
        labels: The class of each sample; None: there are no classes to balance.
        total: Samples.
        count: Of the subset.
    """
    order = permutation(total, SUBSET_SEED)
    if labels is None:
        return np.sort(order[:count])
    classes = np.unique(np.asarray(labels), return_inverse=True)[1][order]
    by_class = np.argsort(classes, kind="stable")
    sizes = np.bincount(classes)
    turn = np.empty(total, dtype=np.int64)  # the how manieth of its class each one is
    turn[by_class] = np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[np.argsort(turn, kind="stable")[:count]])


def size_of_share(total: int, share: float, num_classes: int) -> int:
    """Samples of a share: one of each class at least, all of them at most."""
    return min(total, max(round(total * share), num_classes, 1))

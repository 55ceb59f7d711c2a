"""Projections of several media into one space: shrunken canonical correlations, then a contrastive loss."""

from collections.abc import Mapping
from itertools import combinations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

_SHRINKAGES = (0.03, 0.1, 0.3, 0.6)
_MOST_DIRECTIONS = 256  # of the features of a medium, those of most variance
_FOLDS, _MOST_STEPS, _EVERY = 5, 60, 10
_BATCH = 1024
_LEARNING_RATE, _WEIGHT_DECAY, _DROPOUT = 3e-3, 0.1, 0.2

Rows = Mapping[str, Int64[Tensor, "n"]]
Affine = tuple[Float[Tensor, "f"], Float[Tensor, "k f"]]


class Projections(nn.Module):
    """One linear map a medium, from whitened directions of its features; they are trained together.

    Args:
        features: Of the different items of each medium, [m, F].
        rows: Which items belong together; -1: none.
        width: K; fewer where the features have not as many directions.
        shrinkage: From 0, whitening as the rows say, to 1, none.
    """

    def __init__(self, features: Mapping[str, Float[Tensor, "m f"]], rows: Rows, width: int, shrinkage: float) -> None:
        super().__init__()
        self.means: dict[str, Tensor] = {}
        self.directions: dict[str, Tensor] = {}
        whitened = {}
        for name, values in features.items():
            present = rows[name] >= 0
            used = values[rows[name][present]]
            mean, scale = used.mean(dim=0), used.std(dim=0).clamp(min=1e-6)
            _, spread, directions = torch.linalg.svd((used - mean) / scale, full_matrices=False)
            count = min(_MOST_DIRECTIONS, len(used) - 1, int((spread > 1e-5 * spread[0]).sum()))
            variances = spread[:count] ** 2 / len(used)
            shrunken = (1 - shrinkage) * variances + shrinkage * variances.mean()
            self.means[name] = mean
            self.directions[name] = directions[:count] / scale / shrunken.sqrt()[:, None]
            whitened[name] = torch.zeros(len(present), count, dtype=values.dtype)
            whitened[name][present] = (used - mean) @ self.directions[name].T
        self.maps = nn.ParameterDict(_correlated(whitened, rows, width))
        self.log_temperature = nn.Parameter(torch.tensor(0.1, dtype=torch.float64).log())

    def forward(self, name: str, values: Float[Tensor, "b f"], dropout: float = 0.0) -> Float[Tensor, "b k"]:
        """Vectors of length 1."""
        whitened = (values - self.means[name]) @ self.directions[name].T
        return F.normalize(F.dropout(whitened, dropout) @ self.maps[name].T, dim=-1)

    def affine(self, name: str) -> Affine:
        """Mean and weight: the vectors are those of ``weight @ (features - mean)``, at length 1."""
        return self.means[name], (self.maps[name] @ self.directions[name]).detach()


def _correlated(whitened: Mapping[str, Float[Tensor, "n d"]], rows: Rows, width: int) -> dict[str, Tensor]:
    """Directions in which all media go together (Kettenring 1971, "Canonical analysis of several sets of variables",
    SUMCOR): the first eigenvectors of their covariances across media, each by how much it correlates."""
    sizes = [values.shape[1] for values in whitened.values()]
    names = list(whitened)
    blocks = []
    for size in sizes:
        blocks.append([torch.zeros(size, other, dtype=torch.float64) for other in sizes])
    for i, j in combinations(range(len(names)), 2):
        both = (rows[names[i]] >= 0) & (rows[names[j]] >= 0)
        if both.any():
            blocks[i][j] = whitened[names[i]][both].T @ whitened[names[j]][both] / both.sum()
            blocks[j][i] = blocks[i][j].T
    values, vectors = torch.linalg.eigh(torch.cat([torch.cat(line, dim=1) for line in blocks]))
    values, vectors = values.flip(0)[:width], vectors.flip(1)[:, :width]
    maps = (vectors * values.clamp(min=1e-6)).split(sizes)
    return {name: nn.Parameter(each.T.contiguous()) for name, each in zip(names, maps, strict=True)}


def contrastive_loss(
    vectors: Mapping[str, Float[Tensor, "b k"]], rows: Rows, log_temperature: Tensor
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy of who belongs to whom (CLIP, Radford et al. 2021, section 2.3), summed over all pairs of
    media.

    Args:
        vectors: Of the items of some rows, at length 1; those of missing items are not looked at.
        rows: Which items they are; -1: missing. Rows with the same item are no negatives of each other.
        log_temperature: Its logarithm.
    """
    total = log_temperature.new_zeros(())
    for one, other in combinations(vectors, 2):
        both = ((rows[one] >= 0) & (rows[other] >= 0)).nonzero()[:, 0]
        if len(both) < 2:
            continue
        logits = vectors[one][both] @ vectors[other][both].T / log_temperature.clamp(min=-4.6).exp()
        logits = logits.masked_fill(_same(rows[one][both]) | _same(rows[other][both]), -torch.inf)
        own = torch.arange(len(both))
        total = total + (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return total


def _same(items: Int64[Tensor, "b"]) -> Bool[Tensor, "b b"]:
    """Which rows have the same item; a row itself does not count."""
    return (items[:, None] == items) & ~torch.eye(len(items), dtype=torch.bool)


def fit(features: Mapping[str, Float[Tensor, "m f"]], rows: Rows, width: int, seed: int) -> Projections:
    """Fit projections to rows that belong together, in float64 on the CPU.

    How much the whitening is shrunken, and how many steps follow, is what a cross-validation finds best.

    Args:
        features: Of the different items of each medium, [m, F]; only those that rows have are looked at.
        rows: Which items belong together, [n] a medium; -1: none.
        width: K.
        seed: Of the folds, the batches and the dropout.
    """
    count = len(next(iter(rows.values())))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fold = torch.randperm(count) % _FOLDS
        halves = []
        for number in range(_FOLDS):
            halves.append((_chosen(rows, fold != number), _chosen(rows, fold == number)))
        losses: dict[float, float] = {}
        for shrinkage in _SHRINKAGES:
            losses[shrinkage] = 0.0
            for fitted, held_out in halves:
                projections = Projections(features, fitted, width, shrinkage)
                losses[shrinkage] += _held_out_loss(projections, features, held_out)
        shrinkage = min(losses, key=losses.__getitem__)
        curves = torch.zeros(_MOST_STEPS // _EVERY + 1)
        for fitted, held_out in halves:
            projections = Projections(features, fitted, width, shrinkage)
            curve = _trained(projections, features, fitted, _MOST_STEPS, held_out)
            curves += torch.tensor(curve)
        projections = Projections(features, rows, width, shrinkage)
        _trained(projections, features, rows, _EVERY * int(curves.argmin()))
    return projections


def _chosen(rows: Rows, which: Bool[Tensor, "n"]) -> dict[str, Int64[Tensor, "_"]]:
    return {name: items[which] for name, items in rows.items()}


def _loss(projections: Projections, features: Mapping[str, Tensor], rows: Rows, dropout: float = 0.0) -> Tensor:
    vectors = {name: projections(name, values[rows[name]], dropout) for name, values in features.items()}
    return contrastive_loss(vectors, rows, projections.log_temperature)


def _held_out_loss(projections: Projections, features: Mapping[str, Tensor], rows: Rows) -> float:
    """Loss at the best of some temperatures, which are not what is judged."""
    with torch.no_grad():
        return float(_loss(projections, features, rows))


def _trained(
    projections: Projections, features: Mapping[str, Tensor], rows: Rows, steps: int, held_out: Rows | None = None
) -> list[float]:
    """Train; the loss of rows that are held out, at the beginning and after every ten steps."""
    count = len(next(iter(rows.values())))
    optimizer = torch.optim.AdamW(projections.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    losses = []
    for step in range(steps + 1):
        if held_out is not None and step % _EVERY == 0:
            losses.append(_held_out_loss(projections, features, held_out))
        if step == steps:
            return losses
        batch = rows
        if count > _BATCH:
            batch = {name: items[torch.randperm(count)[:_BATCH]] for name, items in rows.items()}
        optimizer.zero_grad()
        _loss(projections, features, batch, _DROPOUT).backward()
        optimizer.step()
    return losses

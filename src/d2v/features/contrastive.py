"""Projections of several media into one space: shrunken canonical correlations, then a contrastive loss."""

from collections.abc import Mapping
from functools import cache
from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

_SHRINKAGES = (0.03, 0.1, 0.2, 0.3)
_USUAL = 0.2  # shrinkage, while poolings are compared
_TEMPERATURES = (0.05, 0.1, 0.2, 0.4)
_MOST_DIRECTIONS = 256  # of the features of a medium, those of most variance
_STEPS, _EVERY = 40, 10
_MANY = 500  # rows, of which a tenth is enough to judge by
_BATCH = 1024
_LEARNING_RATE, _WEIGHT_DECAY, _DROPOUT = 3e-4, 0.1, 0.2

Rows = Mapping[str, Int64[Tensor, "n"]]
Affine = tuple[Float[Tensor, "f"], Float[Tensor, "k f"]]


class Basis(NamedTuple):
    """Directions of most variance of the features of a medium, on some rows."""

    mean: Float[Tensor, "f"]
    directions: Float[Tensor, "d f"]
    """For standardised features; their scale is part of them."""
    variances: Float[Tensor, "d"]

    @classmethod
    def of(cls, used: Float[Tensor, "n f"]) -> "Basis":
        mean, scale = used.mean(dim=0), used.std(dim=0).clamp(min=1e-6)
        standardised = (used - mean) / scale
        tall = len(used) > used.shape[1]
        products = standardised.T @ standardised if tall else standardised @ standardised.T  # the smaller of the two
        values, vectors = torch.linalg.eigh(products)
        values, vectors = values.flip(0), vectors.flip(1)
        count = min(_MOST_DIRECTIONS, len(used) - 1, int((values > 1e-10 * values[0]).sum()))
        directions = vectors[:, :count].T
        if not tall:
            directions = directions @ standardised / values[:count, None].sqrt()
        return cls(mean, directions / scale, values[:count] / len(used))


class Projections(nn.Module):
    """One linear map a medium, from whitened directions of its features; they are trained together.

    Args:
        features: Of the different items of each medium, [m, F].
        rows: Which items belong together; -1: none.
        bases: Of these features on these rows.
        width: K; fewer where the features have not as many directions.
        shrinkage: From 0, whitening as the rows say, to 1, none.
    """

    def __init__(
        self,
        features: Mapping[str, Float[Tensor, "m f"]],
        rows: Rows,
        bases: Mapping[str, Basis],
        width: int,
        shrinkage: float,
    ) -> None:
        super().__init__()
        self.means: dict[str, Tensor] = {}
        self.directions: dict[str, Tensor] = {}
        whitened = {}
        for name, (mean, directions, variances) in bases.items():
            shrunken = (1 - shrinkage) * variances + shrinkage * variances.mean()
            self.means[name], self.directions[name] = mean, directions / shrunken.sqrt()[:, None]
            whitened[name] = self.whiten(name, features[name], rows[name])
        self.maps = nn.ParameterDict(_correlated(whitened, rows, width))
        self.log_temperature = nn.Parameter(torch.tensor(0.1, dtype=torch.float64).log())

    def whiten(self, name: str, values: Float[Tensor, "m f"], items: Int64[Tensor, "n"]) -> Float[Tensor, "n d"]:
        """Directions of some items, each with a variance of at most about 1; zeros for those that are missing."""
        whitened = (values[items] - self.means[name]) @ self.directions[name].T
        return whitened.masked_fill((items < 0)[:, None], 0)

    def project(self, name: str, whitened: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Vectors of length 1."""
        return F.normalize(whitened @ self.maps[name].T, dim=-1)

    def affine(self, name: str) -> Affine:
        """Mean and weight: the vectors are those of ``weight @ (features - mean)``, at length 1."""
        return self.means[name], (self.maps[name] @ self.directions[name]).detach()

    def anchors(self, name: str, values: Float[Tensor, "m f"]) -> Float[Tensor, "m k"]:
        """Vectors of all items of a medium, over the temperature: products with them are logits of the loss."""
        vectors = self.project(name, self.whiten(name, values, torch.arange(len(values))))
        return (vectors / self.log_temperature.exp()).detach()


def _correlated(whitened: Mapping[str, Float[Tensor, "n d"]], rows: Rows, width: int) -> dict[str, Tensor]:
    """Directions in which all media go together (Kettenring 1971, "Canonical analysis of several sets of variables",
    SUMCOR): the first eigenvectors of their covariances across media, each times the square of its eigenvalue."""
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
    maps = (vectors * values.clamp(min=1e-3) ** 2).split(sizes)
    return {name: nn.Parameter(each.T.contiguous()) for name, each in zip(names, maps, strict=True)}


def contrastive_loss(
    vectors: Mapping[str, Float[Tensor, "b k"]], rows: Rows, log_temperature: Tensor
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy of who belongs to whom (CLIP, Radford et al. 2021, section 2.3), summed over all pairs of
    media.

    Args:
        vectors: Of the items of some rows, at length 1; those of missing items are not looked at.
        rows: Which items they are; -1: missing. Rows that share an item of any medium are no negatives of each other.
        log_temperature: Its logarithm.
    """
    total = log_temperature.new_zeros(())
    alike = torch.stack([_same(items) for items in rows.values()]).any(dim=0)
    for one, other in combinations(vectors, 2):
        both = ((rows[one] >= 0) & (rows[other] >= 0)).nonzero()[:, 0]
        if len(both) < 2:
            continue
        logits = vectors[one][both] @ vectors[other][both].T / log_temperature.clamp(min=-4.6).exp()
        logits = logits.masked_fill(alike[both][:, both], -torch.inf)
        own = torch.arange(len(both), device=logits.device)
        total = total + (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return total


def _same(items: Int64[Tensor, "b"]) -> Bool[Tensor, "b b"]:
    """Which rows have the same item; a row itself does not count."""
    same = (items[:, None] == items) & (items >= 0)
    return same & ~torch.eye(len(items), dtype=torch.bool, device=items.device)


def fit(
    features: Mapping[str, Mapping[int, Float[Tensor, "m f"]]], rows: Rows, width: int, seed: int
) -> tuple[Projections, dict[str, int]]:
    """Fit projections to rows that belong together, in float64 on the CPU.

    How finely each medium is pooled, how much the whitening is shrunken, and how many steps of the contrastive loss
    follow, is what is best for rows that are held out: each fifth in turn, or of many rows one tenth.

    Args:
        features: Of the different items of each medium, [m, F], by how they can be pooled; only those that rows have
            are looked at.
        rows: Which items belong together, [n] a medium; -1: none.
        width: K.
        seed: Of what is held out, the batches and the dropout.

    Returns:
        The projections, and the pooling of each medium.
    """
    count = len(next(iter(rows.values())))
    folds, pieces = (1, 10) if count >= _MANY else (5, 5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        place = torch.randperm(count) % pieces
        fitted, held_out = [], []
        for fold in range(folds):
            fitted.append({name: items[place != fold] for name, items in rows.items()})
            held_out.append({name: items[place == fold] for name, items in rows.items()})

        @cache
        def basis(name: str, pooling: int, fold: int) -> Basis:
            items = (rows if fold < 0 else fitted[fold])[name]
            return Basis.of(features[name][pooling][items[items >= 0]])

        def start(chosen: Mapping[str, int], shrinkage: float, fold: int) -> tuple[Projections, dict[str, Tensor]]:
            values = {name: features[name][pooling] for name, pooling in chosen.items()}
            bases = {name: basis(name, pooling, fold) for name, pooling in chosen.items()}
            return Projections(values, rows if fold < 0 else fitted[fold], bases, width, shrinkage), values

        def judged(chosen: Mapping[str, int], shrinkage: float) -> float:
            losses = torch.zeros(len(_TEMPERATURES))
            for fold in range(folds):
                losses += _held_out_losses(*start(chosen, shrinkage, fold), held_out[fold])
            return float(losses.min())

        chosen = {name: next(iter(poolings)) for name, poolings in features.items()}
        for name, poolings in features.items():
            chosen[name] = min(poolings, key=lambda pooling: judged({**chosen, name: pooling}, _USUAL))
        shrinkage = min(_SHRINKAGES, key=lambda each: judged(chosen, each))
        losses = torch.zeros(_STEPS // _EVERY + 1, len(_TEMPERATURES))
        for fold in range(folds):
            projections, values = start(chosen, shrinkage, fold)
            losses[0] += _held_out_losses(projections, values, held_out[fold])
            for part in range(1, len(losses)):
                _train(projections, values, fitted[fold], _EVERY)
                losses[part] += _held_out_losses(projections, values, held_out[fold])
        projections, values = start(chosen, shrinkage, -1)
        _train(projections, values, rows, _EVERY * int(losses.min(dim=1).values.argmin()))
    return projections, chosen


def _held_out_losses(projections: Projections, features: Mapping[str, Tensor], rows: Rows) -> Float[Tensor, "t"]:
    """Losses at several temperatures, the best of which counts."""
    with torch.no_grad():
        vectors = {}
        for name, values in features.items():
            vectors[name] = projections.project(name, projections.whiten(name, values, rows[name]))
        losses = []
        for temperature in _TEMPERATURES:
            losses.append(contrastive_loss(vectors, rows, torch.tensor(temperature, dtype=torch.float64).log()))
    return torch.stack(losses)


def _train(projections: Projections, features: Mapping[str, Tensor], rows: Rows, steps: int) -> None:
    """Steps of AdamW, on all rows at once unless they are very many."""
    count = len(next(iter(rows.values())))
    optimizer = torch.optim.AdamW(projections.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    whitened = {name: projections.whiten(name, values, rows[name]) for name, values in features.items()}
    for _ in range(steps):
        batch = torch.randperm(count)[:_BATCH]
        vectors = {}
        for name, values in whitened.items():
            vectors[name] = projections.project(name, F.dropout(values[batch], _DROPOUT))
        optimizer.zero_grad()
        rows_of_batch = {name: items[batch] for name, items in rows.items()}
        contrastive_loss(vectors, rows_of_batch, projections.log_temperature).backward()
        optimizer.step()

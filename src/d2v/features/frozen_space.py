"""Makes a shared space on frozen encoders, and measures how well the media find each other in one."""

import sys
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float32, Int64

from d2v.checkpoints.load import Weights
from d2v.errors import UserError
from d2v.features.contrastive import fit
from d2v.features.encode import Skipped
from d2v.features.feature_settings import encoder_digest
from d2v.features.pairs import Pairs, features_of
from d2v.features.recall import Recall, recall_of
from d2v.features.shared_space import Projection, SharedSpace
from d2v.model.encoder import Encoder

_FEWEST = 8  # rows that something can be learned from
LABEL = "the label"  # one more medium, whose items are the labels

Features = dict[str, dict[int, Float32[np.ndarray, "m f"]]]


def frozen_space(
    media: dict[str, tuple[str, Encoder]], features: Features, pairs: Pairs, width: int, weights: Weights, seed: int
) -> SharedSpace:
    """A new space.

    Args:
        media: Checkpoint and encoder of each medium of the rows.
        features: Of their items, as of :func:`item_features`.
        pairs: The rows. Those of one label mean the same.
        width: Of the space.
        weights: Which weights the encoders have.
        seed: Of all that is drawn.

    Raises:
        UserError: There are too few pairs.
    """
    from d2v import __version__

    different = len(set(zip(*(positions.tolist() for positions in pairs.rows.values()), strict=True)))
    if different < _FEWEST:
        raise UserError(
            f"{pairs.where}: {len(pairs)} usable rows, of which {different} differ; give at least {_FEWEST} different "
            "pairs"
        )
    for name, positions in pairs.rows.items():
        if len(np.unique(positions[positions >= 0])) < 2:
            raise UserError(f"{pairs.where}: column {pairs.headings[name]} has not two different items; give more")
    rows = meanings(pairs)
    values: dict[str, dict[int, torch.Tensor]] = {}
    for name, by_parts in features.items():
        values[name] = {parts: torch.from_numpy(each).double() for parts, each in by_parts.items()}
    if LABEL in rows:
        values[LABEL] = {1: torch.eye(int(rows[LABEL].max()) + 1, dtype=torch.float64)}
    projections, finest = fit(values, rows, width, seed)
    anchors = np.empty((0, len(next(iter(projections.maps.values())))), np.float32)
    if LABEL in rows:
        anchors = projections.anchors(LABEL, values[LABEL][1]).float().numpy()
    projected = {}
    for name, (checkpoint, encoder) in media.items():
        mean, weight = (value.float().numpy() for value in projections.affine(name))
        digest = encoder_digest(encoder)
        projected[name] = Projection(checkpoint, digest, finest[name], mean, weight, anchors)
    return SharedSpace(projected, weights, seed, len(pairs), __version__)


def meanings(pairs: Pairs) -> dict[str, Int64[torch.Tensor, "n"]]:
    """Which items each row has, [n] a medium; labels that some rows share are one more medium."""
    rows = {name: torch.from_numpy(positions) for name, positions in pairs.rows.items()}
    labels, of_row = np.unique(pairs.labels or [], return_inverse=True)
    if 1 < len(labels) < len(pairs):
        rows[LABEL] = torch.from_numpy(of_row)
    return rows


def tested(space: SharedSpace, encoders: dict[str, Encoder], pairs: Pairs, root: str, device: torch.device) -> Recall:
    """Recall of a space on some rows.

    Raises:
        UserError: Nothing of them can be read, or a file is not there.
    """
    finest = {name: space.media[name].parts for name in pairs.rows}
    features, pairs = item_features(encoders, pairs, root, device, finest)
    if not len(pairs):
        raise UserError(f"{pairs.where}: no row has two items that can be read")
    vectors = {}
    for name, by_parts in features.items():
        vectors[name] = space.media[name](by_parts[finest[name]])
    return recall_of(vectors, pairs)


def item_features(
    encoders: dict[str, Encoder],
    pairs: Pairs,
    root: str,
    device: torch.device,
    finest: Mapping[str, int] = MappingProxyType({}),
) -> tuple[Features, Pairs]:
    """Features of all items of some rows, and the rows without items that cannot be read.

    Args:
        encoders: On ``device``.
        pairs: The rows.
        root: Folder that their paths are relative to.
        device: Where to compute.
        finest: Parts that a medium is pooled over; where there is none, at all levels.

    Returns:
        By medium, then by the finest parts; [m, F], not finite where no row has the item.

    Raises:
        UserError: A file is not there, or none can be read.
    """
    features: Features = {}
    broken = {}
    for name in pairs.rows:
        used = np.unique(pairs.rows[name][pairs.rows[name] >= 0])
        found = features_of(encoders[name], pairs.listed(name, used, root), finest.get(name), device, _name_skipped)
        features[name] = {}
        for parts, values in found.items():
            features[name][parts] = np.full((len(pairs.items[name]), values.shape[1]), np.nan, np.float32)
            features[name][parts][used] = values
            broken[name] = used[~np.isfinite(values).all(axis=1)].tolist()
    return features, pairs.without(broken)


def _name_skipped(item: Skipped) -> None:
    print(f"skipped {item.name}: {item.reason}", file=sys.stderr)

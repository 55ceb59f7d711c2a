"""Makes a shared space on frozen encoders, and measures how well the media find each other in one."""

import sys

import numpy as np
import torch
from jaxtyping import Float32

from d2v.checkpoints.load import Weights
from d2v.data.sources.source import Listed
from d2v.errors import UserError
from d2v.features.contrastive import fit
from d2v.features.encode import Skipped
from d2v.features.feature_settings import encoder_digest
from d2v.features.pairs import Pairs, features_of
from d2v.features.recall import Recall, recall_of
from d2v.features.shared_space import Projection, SharedSpace
from d2v.model.encoder import Encoder

_FEWEST = 8  # rows that something can be learned from
_LABEL = "the label"  # one more medium, whose items are the labels

Features = dict[str, dict[int, Float32[np.ndarray, "m f"]]]


def frozen_space(
    media: dict[str, tuple[str, Encoder]],
    pairs: Pairs,
    root: str,
    width: int,
    weights: Weights,
    seed: int,
    device: torch.device,
) -> tuple[SharedSpace, Pairs]:
    """A new space, and the rows that it was trained on.

    Args:
        media: Checkpoint and encoder of each medium of the rows; the encoders are on ``device``.
        pairs: The rows. Those of one label mean the same.
        root: Folder that their paths are relative to.
        width: Of the space.
        weights: Which weights the encoders have.
        seed: Of all that is drawn.
        device: Where features are computed.

    Raises:
        UserError: There are too few pairs, or a file is not there.
    """
    from d2v import __version__

    encoders = {name: encoder for name, (_, encoder) in media.items()}
    features, pairs = _features(encoders, pairs, root, dict.fromkeys(encoders), device)
    different = len(set(zip(*(positions.tolist() for positions in pairs.rows.values()), strict=True)))
    if different < _FEWEST:
        raise UserError(
            f"{pairs.where}: {len(pairs)} usable rows, of which {different} differ; give at least {_FEWEST} different "
            "pairs"
        )
    for name, positions in pairs.rows.items():
        if len(np.unique(positions[positions >= 0])) < 2:
            raise UserError(f"{pairs.where}: column {pairs.headings[name]} has not two different items; give more")
    rows = {name: torch.from_numpy(positions) for name, positions in pairs.rows.items()}
    values: dict[str, dict[int, torch.Tensor]] = {}
    for name, by_parts in features.items():
        values[name] = {parts: torch.from_numpy(each).double() for parts, each in by_parts.items()}
    labels, of_row = np.unique(pairs.labels or [], return_inverse=True)
    if 1 < len(labels) < len(pairs):
        values[_LABEL] = {1: torch.eye(len(labels), dtype=torch.float64)}
        rows[_LABEL] = torch.from_numpy(of_row)
    projections, finest = fit(values, rows, width, seed)
    projected = {}
    for name, (checkpoint, encoder) in media.items():
        mean, weight = (value.float().numpy() for value in projections.affine(name))
        projected[name] = Projection(checkpoint, encoder_digest(encoder), finest[name], mean, weight)
    return SharedSpace(projected, weights, seed, len(pairs), __version__), pairs


def tested(space: SharedSpace, encoders: dict[str, Encoder], pairs: Pairs, root: str, device: torch.device) -> Recall:
    """Recall of a space on some rows.

    Raises:
        UserError: Nothing of them can be read, or a file is not there.
    """
    parts: dict[str, int | None] = {name: space.media[name].parts for name in pairs.rows}
    features, pairs = _features(encoders, pairs, root, parts, device)
    if not len(pairs):
        raise UserError(f"{pairs.where}: no row has two items that can be read")
    vectors = {}
    for name, by_parts in features.items():
        vectors[name] = space.media[name](by_parts[space.media[name].parts])
    return recall_of(vectors, pairs)


def _features(
    encoders: dict[str, Encoder], pairs: Pairs, root: str, finest: dict[str, int | None], device: torch.device
) -> tuple[Features, Pairs]:
    """Features of all items of some rows, by the finest parts, and the rows without items that cannot be read."""
    features: Features = {}
    broken = {}
    for name in pairs.rows:
        used = np.unique(pairs.rows[name][pairs.rows[name] >= 0])
        cells = [pairs.items[name][item] for item in used]
        listed = Listed(cells, root, f"{pairs.where}, column {pairs.headings[name]}")
        found = features_of(encoders[name], listed, finest[name], device, _name_skipped)
        features[name] = {}
        for parts, values in found.items():
            features[name][parts] = np.full((len(pairs.items[name]), values.shape[1]), np.nan, np.float32)
            features[name][parts][used] = values
            broken[name] = used[~np.isfinite(values).all(axis=1)].tolist()
    return features, pairs.without(broken)


def _name_skipped(item: Skipped) -> None:
    print(f"skipped {item.name}: {item.reason}", file=sys.stderr)

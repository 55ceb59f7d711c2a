"""One space for several media, from a table of pairs: the function behind `d2v align`."""

import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from d2v.checkpoints.folder import require_empty
from d2v.checkpoints.load import Weights, untrained_like
from d2v.data.sources.source import Listed
from d2v.errors import UserError
from d2v.evaluation.frozen import find_device
from d2v.features.contrastive import fit
from d2v.features.encode import Skipped
from d2v.features.feature_settings import FeatureOptions, encoder_digest
from d2v.features.pairs import Pairs, features_of, read_pairs
from d2v.features.recall import RANKS, Recall, recall_of
from d2v.features.shared_space import (
    SETTINGS,
    SHARED,
    Projection,
    SharedSpace,
    load_encoders,
    read_space,
    space_folder,
    write_space,
)
from d2v.model.encoder import Encoder, Layer

_PARTS = (1, 2, 4)
_FEWEST = 8
"""Rows that something can be learned from."""


@dataclass(frozen=True)
class Alignment:
    """What :func:`align` did; printed, it is the table that `d2v align` shows."""

    space: SharedSpace
    folders: list[Path]
    """Where the space lies."""
    pairs: Pairs | None
    """What it was trained on; None: it was there."""
    recall: Recall | None
    """On the test rows; None: there were none."""
    baseline: Recall | None
    """The same of projections on the untrained encoders; None: it was not asked for."""

    def entries(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found: dict[str, Any] = {"num_pairs": self.space.num_pairs, "seed": self.space.seed}
        found["shared"] = [str(folder) for folder in self.folders]
        if self.recall is not None:
            found |= self.recall.entries()
        if self.baseline is not None:
            found["baseline"] = self.baseline.entries()
        return found

    def __str__(self) -> str:
        lines = []
        if self.pairs is not None:
            media = ", ".join(self.space.media)
            written = " and ".join(map(str, self.folders))
            lines.append(f"{self.space.num_pairs:,} pairs: {media} in one space of width {self.space.width}: {written}")
        if self.recall is not None:
            columns = {"recall": self.recall.at, "chance": self.recall.chance}
            if self.baseline is not None:
                columns["untrained"] = self.baseline.at
            width = max(map(len, self.recall.queries))
            heads = [f"{f'{name}@{rank}':>14}" for name in columns for rank in RANKS]
            lines.append(" " * width + "".join(heads) + "   queries, candidates")
            for direction, queries in self.recall.queries.items():
                shares = [f"{at[rank][direction]:>14.3f}" for at in columns.values() for rank in RANKS]
                counts = f"   {queries:,}, {self.recall.candidates[direction]:,}"
                lines.append(f"{direction:<{width}}" + "".join(shares) + counts)
        return "\n".join(lines)


def align(
    checkpoint: str | Path | Sequence[str | Path],
    pairs: str | Path | None = None,
    *,
    test: str | Path | None = None,
    test_fraction: float = 0.0,
    label: str | None = None,
    root: str | Path | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    num_pairs: int | None = None,
    width: int = 64,
    parts: int | None = None,
    layer: Layer = None,
    weights: Weights = "student",
    baseline: bool = False,
    seed: int = 0,
    device: str = "auto",
    allow: Iterable[str] = (),
) -> Alignment:
    """Train projections of several media into one space, where what belongs together is near; or test such a space.

    The encoders are frozen. Their features are pooled over parts of each input and standardised; canonical correlations
    are where a symmetric contrastive loss starts from (CLIP, Radford et al. 2021, section 2.3), summed over all pairs
    of media that a row has. What is regular about it, and how long it is trained, a cross-validation finds.

    Args:
        checkpoint: One that holds several encoders, or several; each as :func:`d2v.load` takes it, or NAME=PATH.
        pairs: A table (TSV, CSV, JSON lines, Parquet) with columns of at least two media: ``picture``, ``speech``,
            ``audio``, ``text`` or how else an encoder is called; paths of files, or texts. Of a row two cells must be
            filled. None: the space is there already, and is tested.
        test: A table of rows to measure recall on.
        test_fraction: Or the share of the rows that is held out for it.
        label: Column of the tables; a hit is then any item of the query's label, not just one of its own row.
        root: Folder that paths in the tables are relative to; None: that of each table.
        output: Folder of the space; None: ``shared`` in the folder of the run, or FILE.shared beside a file, at each
            of the checkpoints.
        overwrite: Replace a space that lies there.
        num_pairs: Take so many rows, drawn by the seed; None: all.
        width: Of the space; fewer pairs may give less.
        parts: Stretches of a sequence, and rows and columns of a picture, whose means are the features; 1: one mean;
            None: for each medium what is best for rows that are held out.
        layer: As in :func:`d2v.embed_files`.
        weights: The students', or the teachers'.
        baseline: Train and test the same on untrained encoders too.
        seed: Of all that is drawn.
        device: auto, cpu, cuda, cuda:1, mps; where features are computed.
        allow: Packages outside d2v whose classes a checkpoint may name; see :func:`d2v.load`.

    Raises:
        UserError: A table, a file, a checkpoint or a value is wrong, or there are too few pairs.
    """
    checkpoints = [checkpoint] if isinstance(checkpoint, str | Path) else list(checkpoint)
    where = find_device(device)
    if output is not None:
        folders = [Path(output).expanduser()]
    else:
        paths = [str(each).rpartition("=")[2] for each in checkpoints]
        folders = list(dict.fromkeys(space_folder(SHARED, path) for path in paths))
    allow = [allow] if isinstance(allow, str) else list(allow)
    if pairs is None:
        if test is None:
            raise UserError("give --pairs TABLE to train on, or --test TABLE to test the space that is there")
        space = read_space(folders[0])
        encoders = {}
        for path, encoder in load_encoders(checkpoints, space.weights, allow).values():
            encoders[space.medium_of(encoder, path)] = encoder.to(where)
        rows = read_pairs(test, "--test", list(encoders), label)
        return Alignment(space, folders[:1], None, _tested(space, encoders, rows, _root(root, test), where), None)
    if not 0 <= test_fraction < 1:
        raise UserError(f"--test_fraction {test_fraction:g}: give a share of the rows, from 0 to below 1")
    for folder in folders:
        if not overwrite and (folder / SETTINGS).exists():
            raise UserError(f"{folder}: there is a shared space; --overwrite replaces it, --output DIR makes another")
        if not overwrite:
            require_empty(folder)
    loaded = load_encoders(checkpoints, weights, allow)
    table = read_pairs(pairs, "--pairs", list(loaded), label)
    held_out: Pairs | None = None
    if test is not None:
        held_out = read_pairs(test, "--test", list(table.rows), label)
    chosen = table
    if test_fraction:
        chosen, held_out = table.split(test_fraction, seed)
    order = np.random.default_rng(seed).permutation(len(chosen))
    chosen = chosen.select(np.sort(order[:num_pairs]))
    roots = _root(root, pairs), _root(root, test or pairs)
    settings = (width, parts, layer, weights, seed, where)
    encoders = {name: loaded[name][1].to(where) for name in table.rows}
    names = {name: loaded[name][0] for name in table.rows}
    space, used = _trained(encoders, names, chosen, roots[0], *settings)
    for folder in folders:
        if (folder / SETTINGS).is_file():  # nothing else is deleted
            shutil.rmtree(folder)
        write_space(folder, space)
    if held_out is None:
        return Alignment(space, folders, used, None, None)
    found = _tested(space, encoders, held_out, roots[1], where)
    untrained: Recall | None = None
    if baseline:
        encoders = {name: untrained_like(encoder, seed, allow).to(where) for name, encoder in encoders.items()}
        compared, _ = _trained(encoders, names, chosen, roots[0], *settings)
        untrained = _tested(compared, encoders, held_out, roots[1], where)
    return Alignment(space, folders, used, found, untrained)


def _root(root: str | Path | None, table: str | Path) -> str:
    if root is not None:
        return str(Path(root).expanduser())
    return str(Path(table).expanduser().parent)


def _trained(
    encoders: dict[str, Encoder],
    checkpoints: dict[str, str],
    pairs: Pairs,
    root: str,
    width: int,
    parts: int | None,
    layer: Layer,
    weights: Weights,
    seed: int,
    device: torch.device,
) -> tuple[SharedSpace, Pairs]:
    """A new space, and the rows that it was trained on."""
    from d2v import __version__

    options = FeatureOptions(layer=layer, pool="none")
    tried = _PARTS if parts is None else (parts,)
    features, pairs = _features(encoders, pairs, root, dict.fromkeys(encoders, (options, tried)), device)
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
        values[name] = {count: torch.from_numpy(each).double() for count, each in by_parts.items()}
    projections, chosen = fit(values, rows, width, seed)
    media = {}
    for name, encoder in encoders.items():
        mean, weight = (value.float().numpy() for value in projections.affine(name))
        digest = encoder_digest(encoder)
        media[name] = Projection(checkpoints[name], digest, layer, chosen[name], mean, weight)
    return SharedSpace(media, weights, seed, len(pairs), __version__), pairs


def _tested(space: SharedSpace, encoders: dict[str, Encoder], pairs: Pairs, root: str, device: torch.device) -> Recall:
    """Recall of a space on some rows."""
    settings: dict[str, tuple[FeatureOptions, tuple[int, ...]]] = {}
    for name in pairs.rows:
        projection = space.media[name]
        settings[name] = projection.options(), (projection.parts,)
    features, pairs = _features(encoders, pairs, root, settings, device)
    if not len(pairs):
        raise UserError(f"{pairs.where}: no row has two items that can be read")
    vectors = {}
    for name, by_parts in features.items():
        vectors[name] = space.media[name](by_parts[space.media[name].parts])
    return recall_of(vectors, pairs)


def _features(
    encoders: dict[str, Encoder],
    pairs: Pairs,
    root: str,
    settings: dict[str, tuple[FeatureOptions, tuple[int, ...]]],
    device: torch.device,
) -> tuple[dict[str, dict[int, Float32[np.ndarray, "m f"]]], Pairs]:
    """Features of all items of some rows, for each number of parts, and the rows without items that cannot be read."""
    features: dict[str, dict[int, np.ndarray]] = {}
    broken = {}
    for name in pairs.rows:
        used = np.unique(pairs.rows[name][pairs.rows[name] >= 0])
        cells = [pairs.items[name][item] for item in used]
        listed = Listed(cells, root, f"{pairs.where}, column {pairs.headings[name]}")
        options, parts = settings[name]
        found = features_of(encoders[name], listed, options, parts, device, _name_skipped)
        features[name] = {}
        for count, values in found.items():
            features[name][count] = np.full((len(pairs.items[name]), values.shape[1]), np.nan, np.float32)
            features[name][count][used] = values
            broken[name] = used[~np.isfinite(values).all(axis=1)].tolist()
    return features, pairs.without(broken)


def _name_skipped(item: Skipped) -> None:
    print(f"skipped {item.name}: {item.reason}", file=sys.stderr)

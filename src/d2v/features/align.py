"""One space for several media, from a table of pairs: the function behind `d2v align`."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2v.checkpoints.folder import require_empty
from d2v.checkpoints.load import Weights, untrained_like
from d2v.errors import UserError
from d2v.evaluation.frozen import find_device
from d2v.features.frozen_space import frozen_space, item_features, tested
from d2v.features.pairs import Pairs, read_pairs
from d2v.features.recall import RANKS, Recall
from d2v.features.shared_space import (
    SETTINGS,
    SHARED,
    SharedSpace,
    load_encoders,
    read_space,
    space_folder,
    write_space,
)
from d2v.features.unfrozen_space import unfrozen_space
from d2v.model.encoder import Encoder


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
    weights: Weights = "student",
    unfreeze: bool = False,
    baseline: bool = False,
    seed: int = 0,
    device: str = "auto",
    allow: Iterable[str] = (),
) -> Alignment:
    """Train projections of several media into one space, where what belongs together is near; or test such a space.

    The encoders are frozen, unless they are to learn with the projections. Their features, the means of all layers, are
    pooled over parts of each input and standardised; canonical correlations are where a symmetric contrastive loss
    starts from (CLIP, Radford et al. 2021, section 2.3), summed over all pairs of media that a row has. What is regular
    about it, and how long it is trained, a cross-validation finds.

    Args:
        checkpoint: One that holds several encoders, or several; each as :func:`d2v.load` takes it, or NAME=PATH.
        pairs: A table (TSV, CSV, JSON lines, Parquet) with columns of at least two media: ``picture``, ``speech``,
            ``audio``, ``text`` or how else an encoder is called; paths of files, or texts. Of a row two cells must be
            filled. None: the space is there already, and is tested.
        test: A table of rows to measure recall on.
        test_fraction: Or the share of the rows that is held out for it, with no file or text on both sides.
        label: Column of the tables; rows of one label mean the same: they are trained towards each other, vectors
            say how likely each label is, and a hit is any item of the query's label, not just one of its own row.
        root: Folder that paths in the tables are relative to; None: that of each table.
        output: Folder of the space; None: ``shared`` in the folder of the run, or FILE.shared beside a file, at each
            of the checkpoints.
        overwrite: Replace a space that lies there.
        num_pairs: Take so many rows, drawn by the seed; None: all.
        width: Of the projections; fewer pairs may give less.
        weights: The students', or the teachers'.
        unfreeze: Train the encoders too. What they have become is kept in the space; the checkpoints stay as they are.
        baseline: Train and test the same on untrained encoders too.
        seed: Of all that is drawn.
        device: auto, cpu, cuda, cuda:1, mps; where features are computed.
        allow: Packages outside d2v whose classes a checkpoint may name; see :func:`d2v.load`.

    Raises:
        UserError: A table, a file, a checkpoint or a value is wrong, or there are too few pairs.
    """
    checkpoints = [checkpoint] if isinstance(checkpoint, str | Path) else list(checkpoint)
    where = find_device(device)
    folders = _folders(checkpoints, output)
    allow = [allow] if isinstance(allow, str) else list(allow)
    if pairs is None:
        if test is None:
            raise UserError("give --pairs TABLE to train on, or --test TABLE to test the space that is there")
        space = read_space(folders[0])
        encoders = {name: encoder.to(where) for name, encoder in space.encoders_of(checkpoints, allow).items()}
        rows = read_pairs(test, "--test", list(encoders), label)
        return Alignment(space, folders[:1], None, tested(space, encoders, rows, _root(root, test), where), None)
    if not 0 <= test_fraction < 1:
        raise UserError(f"--test_fraction {test_fraction:g}: give a share of the rows, from 0 to below 1")
    for folder in folders:
        if not overwrite and (folder / SETTINGS).exists():
            raise UserError(f"{folder}: there is a shared space; --overwrite replaces it, --output DIR makes another")
        if not overwrite:
            require_empty(folder)
    loaded = load_encoders(checkpoints, weights, allow)
    chosen = read_pairs(pairs, "--pairs", list(loaded), label)
    held_out: Pairs | None = None
    if test is not None:
        held_out = read_pairs(test, "--test", list(chosen.rows), label)
    if test_fraction:
        chosen, held_out = chosen.split(test_fraction, seed)
    order = np.random.default_rng(seed).permutation(len(chosen))
    chosen = chosen.select(np.sort(order[:num_pairs]))
    media = {name: loaded[name] for name in chosen.rows}

    def train(media: dict[str, tuple[str, Encoder]]) -> tuple[SharedSpace, Pairs, Recall | None]:
        encoders = {name: encoder.to(where) for name, (_, encoder) in media.items()}
        folder = _root(root, pairs)
        features, used = item_features(encoders, chosen, folder, where)
        if unfreeze:
            space = unfrozen_space(media, features, used, folder, width, weights, seed, where)
        else:
            space = frozen_space(media, features, used, width, weights, seed)
        if held_out is None:
            return space, used, None
        return space, used, tested(space, encoders, held_out, _root(root, test or pairs), where)

    space, used, recall = train(media)
    for folder in folders:
        if (folder / SETTINGS).is_file():  # nothing else is deleted
            shutil.rmtree(folder)
        write_space(folder, space)
    untrained: Recall | None = None
    if baseline and recall is not None:
        compared = {name: (path, untrained_like(encoder, seed, allow)) for name, (path, encoder) in media.items()}
        _, _, untrained = train(compared)
    return Alignment(space, folders, used, recall, untrained)


def _folders(checkpoints: Sequence[str | Path], output: str | Path | None) -> list[Path]:
    """Where the space lies: at each of the checkpoints, or where it is put."""
    if output is not None:
        return [Path(output).expanduser()]
    paths = [str(each).rpartition("=")[2] for each in checkpoints]
    return list(dict.fromkeys(space_folder(SHARED, path) for path in paths))


def _root(root: str | Path | None, table: str | Path) -> str:
    if root is not None:
        return str(Path(root).expanduser())
    return str(Path(table).expanduser().parent)

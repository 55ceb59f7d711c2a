"""Nearest neighbours among features, by cosine similarity: what `d2v search` calls."""

import csv
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from d2v.checkpoints.load import load
from d2v.errors import UserError
from d2v.evaluation.frozen import find_device
from d2v.features.embed import open_pieces
from d2v.features.encode import Skipped, embed_inputs
from d2v.features.feature_files import PooledFeatures, read_pooled
from d2v.features.feature_settings import FeatureOptions, encoder_digest
from d2v.model.encoder import Encoder
from d2v.whole_files import whole_text_file

_PICTURES = (".png", ".jpg", ".pdf", ".svg")


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of one query, the nearest first; equally near ones in the order of the rows."""

    query: str
    """Id of a row, or a new file."""
    row: int | None
    """The row that the query is; None: it is a new file."""
    ids: list[str]
    similarities: list[float]
    """Cosines, from -1 to 1."""


def search(
    embeddings: str | Path,
    query: str | Sequence[str],
    *,
    top: int = 10,
    checkpoint: str | Path | None = None,
    output: str | Path | None = None,
    picture: str | Path | None = None,
    root: str | Path | None = None,
    device: str = "auto",
    allow: Iterable[str] = (),
) -> list[Neighbours]:
    """Find the rows of a file of features that are nearest to one of them, or to a new file. All rows are compared.

    Args:
        embeddings: What :func:`d2v.embed_files` wrote, pooled.
        query: One or several: the id of a row, which is then no neighbour of itself; or a file, a folder, a glob or a
            text, which is embedded as the rows were.
        top: Neighbours of each query; fewer if there are not as many rows.
        checkpoint: The one that the rows were embedded with; needed for new files only.
        output: Write a table of them (.tsv): query, rank, id, similarity.
        picture: Draw queries and neighbours (.png, .jpg, .pdf or .svg), if they are files of pictures.
        root: Folder that ids are paths below, for the drawing; None: the input of the embedding.
        device: Where new files are encoded: auto, cpu, cuda, cuda:1, mps.
        allow: Packages outside d2v whose classes the checkpoint may name; see :func:`d2v.load`.

    Returns:
        For each query its neighbours; a query that is a folder, say, is as many queries as it has files.

    Raises:
        UserError: A query is neither an id nor a file, the checkpoint is another one, or ``embeddings`` is no such
            file.
    """
    if top < 1:
        raise UserError(f"--top {top}: give at least 1")
    if output is not None and Path(output).suffix.lower() != ".tsv":
        raise UserError(f"--output {output}: it is a table; its name must end with .tsv")
    if picture is not None and Path(picture).suffix.lower() not in _PICTURES:
        raise UserError(f"--picture {picture}: its name must end with one of {', '.join(_PICTURES)}")
    path, where = Path(embeddings), find_device(device)
    features = read_pooled(path)
    if isinstance(query, str):
        query = [query]
    queries: list[_Query] = []
    encoder: Encoder | None = None
    for text in query:
        if text in features.ids:
            row = features.ids.index(text)
            queries.append(_Query(text, features.vectors[row], row))
        elif checkpoint is None:
            raise UserError(_unknown(text, features.ids, path))
        else:
            if encoder is None:
                if "checkpoint_digest" not in features.settings:
                    raise UserError(
                        f"{path}: does not say what it was made with; embed it anew to search by a new file"
                    )
                encoder = load(checkpoint, weights=features.settings["weights"], allow=allow).to(where)
                _require_same(encoder, features, path, checkpoint)
            queries += _embedded(text, features, path, encoder, where)
    names, vectors, rows_of_queries = zip(*queries, strict=True)
    rows, similarities = nearest(features.vectors, np.stack(vectors), top, rows_of_queries)
    found = []
    for number, name in enumerate(names):
        ids = [features.ids[row] for row in rows[number]]
        found.append(Neighbours(name, rows_of_queries[number], ids, similarities[number].tolist()))
    if output is not None:
        _write_table(Path(output), found)
    if picture is not None:
        from d2v.features.sheet import draw_sheet

        if root is None:
            root = features.settings.get("input", "")
        draw_sheet(found, Path(root).expanduser(), Path(picture))
    return found


def nearest(
    vectors: Float32[np.ndarray, "n d"],
    queries: Float32[np.ndarray, "q d"],
    top: int,
    without: Sequence[int | None],
) -> tuple[Int64[np.ndarray, "q k"], Float64[np.ndarray, "q k"]]:
    """Exact neighbours (scikit-learn's NearestNeighbors).

    Args:
        vectors: All rows.
        queries: Vectors whose neighbours are wanted.
        top: Neighbours of each query; fewer if there are not as many rows.
        without: The row that each query is, which does not count as its own neighbour; None: it is no row.

    Returns:
        Rows and cosines, the nearest first; equally near ones in the order of the rows.

    Raises:
        UserError: There is nothing to find, or a vector is not finite.
    """
    from sklearn.neighbors import NearestNeighbors

    count = min(top, len(vectors) - any(row is not None for row in without))
    if count < 1:
        raise UserError("there is no other row to find")
    if not np.isfinite(queries).all():
        raise UserError("a query has features that are not finite")
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise UserError(f"row {broken[0]} and {len(broken) - 1} more are not finite: the checkpoint is broken")
    index = NearestNeighbors(metric="cosine", algorithm="brute").fit(vectors)
    # One more, because a query that is a row finds itself first.
    distances, found = index.kneighbors(queries, n_neighbors=min(count + 1, len(vectors)))
    rows, similarities = np.empty((len(queries), count), np.int64), np.empty((len(queries), count))
    for query, row in enumerate(without):
        order = np.lexsort((found[query], distances[query]))
        if row is not None:
            order = order[found[query][order] != row]
        order = order[:count]
        rows[query], similarities[query] = found[query][order], 1 - distances[query][order]
    return rows, similarities


class _Query(NamedTuple):
    name: str
    vector: Float32[np.ndarray, "d"]
    row: int | None
    """The row that it is; None: it is a new file."""


def _unknown(query: str, ids: list[str], embeddings: Path) -> str:
    """The message for a query that is neither an id nor embedded."""
    if Path(query).exists():
        return f"--query {query}: no id in {embeddings}, but a file: give --checkpoint too, and it is embedded"
    near = [name for name in ids if query.lower() in name.lower()][:5]
    if not near:
        folded = {name.lower(): name for name in ids}
        similar = difflib.get_close_matches(query.lower(), list(folded), n=5, cutoff=0.5)
        near = [folded[name] for name in similar]
    hint = ""
    if near:
        hint = f"; near ones: {', '.join(near)}"
    elif ids:
        hint = f"; they look like {ids[0]}"
    return f"--query {query}: neither an id in {embeddings} nor a file{hint}"


def _require_same(encoder: Encoder, features: PooledFeatures, embeddings: Path, checkpoint: str | Path) -> None:
    """Raise a UserError if the rows were embedded with another encoder."""
    settings = features.settings
    if encoder_digest(encoder) != settings["checkpoint_digest"]:
        raise UserError(
            f"--checkpoint {checkpoint}: its {settings['weights']} is not what {embeddings} was made with, "
            f"which was {settings['checkpoint']}; give that one, or embed anew"
        )


def _embedded(
    query: str, features: PooledFeatures, embeddings: Path, encoder: Encoder, device: torch.device
) -> list[_Query]:
    """Embed new files with the settings of the rows."""
    options = FeatureOptions.of_file(features.settings)
    try:
        pieces = open_pieces(encoder, query, options, device)
    except UserError as error:
        if Path(query).exists():
            raise UserError(str(error).replace("--input", "--query")) from error
        raise UserError(_unknown(query, features.ids, embeddings)) from error
    found = []
    broken = dict(pieces.inputs.broken)
    for item in embed_inputs(encoder, pieces, device, options):
        if isinstance(item, Skipped):
            broken[item.name] = item.reason
        else:
            name = query
            if len(pieces.inputs) > 1:
                name = f"{query}: {item.name}"
            found.append(_Query(name, item.features, None))
    for name, reason in broken.items():
        raise UserError(f"--query {query}: {name} cannot be embedded: {reason}")
    return found


def _write_table(path: Path, found: list[Neighbours]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_text_file(path) as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["query", "rank", "id", "similarity"])
        for neighbours in found:
            pairs = zip(neighbours.ids, neighbours.similarities, strict=True)
            for rank, (name, similarity) in enumerate(pairs, 1):
                writer.writerow([neighbours.query, rank, name, f"{similarity:.6f}"])

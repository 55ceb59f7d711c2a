"""Nearest neighbours among features, by cosine similarity: what `d2v search` calls."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64

from d2v.errors import UserError
from d2v.evaluation.frozen import find_device
from d2v.features.queries import Item, NewQueries, Query, Searched
from d2v.whole_files import whole_text_file

_PICTURES = (".png", ".jpg", ".pdf", ".svg")


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of one query, the nearest first; equally near ones in the order of the rows."""

    query: str
    """Id of a row, or a new file."""
    row: int | None
    """The row that the query is; None: it is something new, or several."""
    ids: list[str]
    similarities: list[float]
    """Cosines, from -1 to 1."""
    items: list[Item]
    """The neighbours, with their medium and, of texts, their words."""
    queries: list[Item]
    """The query; several, if it is the mean of several."""


def search(
    embeddings: str | Path | Sequence[str | Path],
    query: str | Sequence[str] = (),
    *,
    text: str | Sequence[str] = (),
    together: bool = False,
    top: int = 10,
    checkpoint: str | Path | Sequence[str | Path] | None = None,
    modality: str | None = None,
    output: str | Path | None = None,
    picture: str | Path | None = None,
    root: str | Path | None = None,
    device: str = "auto",
    allow: Iterable[str] = (),
) -> list[Neighbours]:
    """Find the rows of files of features that are nearest to one of them, or to something new. All are compared.

    Args:
        embeddings: What :func:`d2v.embed_files` wrote, pooled; several only if they are in one space.
        query: One or several: the id of a row (or FILE:ID), which is then no neighbour of itself; or a file, a folder
            or a glob, which is embedded as the rows were.
        text: One or several texts that are embedded as queries.
        together: Take the mean of all queries, each at length 1, as one query: this picture and these words.
        top: Neighbours of each query; fewer if there are not as many rows.
        checkpoint: The one that the rows were embedded with, or one a medium; needed for new files and texts only.
        modality: Of new files, where several media could read them.
        output: Write a table of them (.tsv): query, rank, id, similarity, medium, text.
        picture: Draw queries and neighbours (.png, .jpg, .pdf or .svg): pictures, sound as spectrograms, texts.
        root: Folder that ids are paths below, for the drawing; None: the input of the embedding.
        device: Where new files are encoded: auto, cpu, cuda, cuda:1, mps.
        allow: Packages outside d2v whose classes the checkpoint may name; see :func:`d2v.load`.

    Returns:
        For each query its neighbours; a query that is a folder, say, is as many queries as it has files.

    Raises:
        UserError: A query is neither an id nor a file, the checkpoint is another one, or ``embeddings`` are no such
            files, or in different spaces.
    """
    if top < 1:
        raise UserError(f"--top {top}: give at least 1")
    if output is not None and Path(output).suffix.lower() != ".tsv":
        raise UserError(f"--output {output}: it is a table; its name must end with .tsv")
    if picture is not None and Path(picture).suffix.lower() not in _PICTURES:
        raise UserError(f"--picture {picture}: its name must end with one of {', '.join(_PICTURES)}")
    where = find_device(device)
    searched = Searched(list(map(Path, _several(embeddings))), root)
    queries: list[Query] = []
    new: NewQueries | None = None
    for given in _several(query):
        known = searched.queries_of_id(given)
        if not known and checkpoint is None:
            raise UserError(searched.unknown(given))
        if not known:
            new = new or NewQueries(searched, _several(checkpoint), modality, where, allow)
            known = new.of_file(given)
        queries += known
    for words in _several(text):
        if checkpoint is None:
            raise UserError(f"--text {words}: is embedded with --checkpoint; give it too")
        new = new or NewQueries(searched, _several(checkpoint), modality, where, allow)
        queries += new.of_text(words)
    if not queries:
        raise UserError("give --query ID|FILE or --text WORDS")
    groups = [queries]
    if not together:
        groups = [[each] for each in queries]
    found = _found(searched, groups, top)
    if output is not None:
        _write_table(Path(output), found)
    if picture is not None:
        from d2v.features.sheet import draw_sheet

        draw_sheet(found, Path(picture))
    return found


def _several(given: str | Path | Sequence[str | Path] | None) -> list[str]:
    return [str(given)] if isinstance(given, str | Path) else list(map(str, given or ()))


def _found(searched: Searched, groups: Sequence[Sequence[Query]], top: int) -> list[Neighbours]:
    """The neighbours of the mean of each group of queries, without these themselves."""
    means, own = [], []
    for queries in groups:
        vectors = np.stack([query.vector for query in queries])
        means.append((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(axis=0))
        own.append([query.row for query in queries if query.row is not None])
    more = max(map(len, own))
    without = [next(iter(rows), None) for rows in own]
    found, similarities = nearest(searched.vectors, np.stack(means), top + max(0, more - 1), without)
    neighbours = []
    for number, queries in enumerate(groups):
        kept = [place for place, row in enumerate(found[number].tolist()) if row not in own[number]][:top]
        items = [searched.item(int(found[number, place])) for place in kept]
        name = " + ".join(query.item.id for query in queries)
        row = without[number] if len(queries) == 1 else None
        shown = similarities[number, kept].tolist()
        asked = [query.item for query in queries]
        neighbours.append(Neighbours(name, row, [item.id for item in items], shown, items, asked))
    return neighbours


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


def _write_table(path: Path, found: list[Neighbours]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_text_file(path) as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["query", "rank", "id", "similarity", "medium", "text"])
        for neighbours in found:
            pairs = zip(neighbours.items, neighbours.similarities, strict=True)
            for rank, (item, similarity) in enumerate(pairs, 1):
                words = " ".join(item.text.split())
                writer.writerow([neighbours.query, rank, item.id, f"{similarity:.6f}", item.medium, words])

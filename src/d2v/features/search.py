"""Nearest neighbours among features, by cosine similarity."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from d2v.errors import UserError


@dataclass(frozen=True)
class Neighbours:
    """Of q queries, the nearest first; of equally near ones, the first row first."""

    rows: Int64[np.ndarray, "q k"]
    similarities: Float64[np.ndarray, "q k"]
    """Cosine, from -1 to 1."""


def nearest(
    vectors: Float32[np.ndarray, "n d"],
    queries: Float32[np.ndarray, "q d"],
    top: int,
    without: list[int | None],
) -> Neighbours:
    """Exact neighbours (scikit-learn's NearestNeighbors).

    Args:
        vectors: Among which to search.
        queries: Whose neighbours.
        top: How many of each; fewer if there are not as many.
        without: For each query the row that it is itself, which is no neighbour of it; None: it is none of the rows.

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
    # One more, since a query is its own nearest neighbour.
    distances, found = index.kneighbors(queries, n_neighbors=min(count + 1, len(vectors)))
    rows, similarities = np.empty((len(queries), count), np.int64), np.empty((len(queries), count))
    for query, row in enumerate(without):
        order = np.lexsort((found[query], distances[query]))
        order = order[found[query][order] != (-1 if row is None else row)][:count]
        rows[query], similarities[query] = found[query][order], 1 - distances[query][order]
    return Neighbours(rows, similarities)

"""How well media find each other in a shared space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from math import comb

import numpy as np
from jaxtyping import Bool, Float, Float32

from d2v.features.pairs import Pairs

RANKS = (1, 5, 10)


@dataclass(frozen=True)
class Recall:
    """Shares of queries, from 0 to 1, that find what belongs to them among the first 1, 5 and 10; by direction."""

    at: dict[int, dict[str, float]] = field(default_factory=lambda: {rank: {} for rank in RANKS})
    """By rank, then by direction, such as ``picture->speech``."""
    chance: dict[int, dict[str, float]] = field(default_factory=lambda: {rank: {} for rank in RANKS})
    """The same where neighbours are drawn by lot."""
    queries: dict[str, int] = field(default_factory=dict)
    """How many there are; the other medium has as many or fewer candidates."""
    candidates: dict[str, int] = field(default_factory=dict)

    def entries(self) -> dict[str, dict[str, float]]:
        """Plain values: ``recall_at_1`` and the like, and ``chance_at_1``."""
        found = {f"recall_at_{rank}": shares for rank, shares in self.at.items()}
        return found | {f"chance_at_{rank}": shares for rank, shares in self.chance.items()}


def recall_of(vectors: Mapping[str, Float32[np.ndarray, "m k"]], pairs: Pairs) -> Recall:
    """Recall in all directions between the media of some rows.

    A query is an item, the candidates are the different items of the other medium in rows that have both. A hit is an
    item of one of the query's own rows; where rows have labels, an item of the query's label. At equal similarity a
    wrong candidate comes first.

    Args:
        vectors: Of all items of each medium, at length 1.
        pairs: The rows.
    """
    found = Recall()
    for one, other in permutations(pairs.rows, 2):
        both = pairs.both(one, other)
        if not len(both):
            continue
        queries, of_query = np.unique(pairs.rows[one][both], return_inverse=True)
        candidates, of_candidate = np.unique(pairs.rows[other][both], return_inverse=True)
        right = np.zeros((len(queries), len(candidates)), bool)
        right[of_query, of_candidate] = True
        if pairs.labels is not None:
            _, labels = np.unique([pairs.labels[row] for row in both], return_inverse=True)
            has_query = np.zeros((len(queries), labels.max() + 1), bool)
            has_candidate = np.zeros((len(candidates), labels.max() + 1), bool)
            has_query[of_query, labels] = has_candidate[of_candidate, labels] = True
            right = has_query.astype(int) @ has_candidate.T > 0
        direction = f"{pairs.headings[one]}->{pairs.headings[other]}"
        wrong_before = _wrong_before(vectors[one][queries] @ vectors[other][candidates].T, right)
        found.queries[direction], found.candidates[direction] = right.shape
        for rank in RANKS:
            found.at[rank][direction] = float((wrong_before < rank).mean())
            found.chance[rank][direction] = _chance(right.sum(axis=1).tolist(), len(candidates), rank)
    return found


def _wrong_before(similarities: Float[np.ndarray, "q c"], right: Bool[np.ndarray, "q c"]) -> np.ndarray:
    """How many wrong candidates come before the first right one of each query."""
    best = np.where(right, similarities, -np.inf).max(axis=1, keepdims=True)
    return ((similarities >= best) & ~right).sum(axis=1)


def _chance(numbers_right: Sequence[int], candidates: int, rank: int) -> float:
    """Chance that the first ``rank`` candidates hold a right one, over all queries."""
    drawn = min(rank, candidates)
    missed = [comb(candidates - right, drawn) / comb(candidates, drawn) for right in numbers_right]
    return 1 - sum(missed) / len(missed)

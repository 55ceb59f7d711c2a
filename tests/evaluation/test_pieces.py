"""What is encoded at once: pieces of about one length, each once, window by window."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from d2v.features.pieces import plan_batches


@given(lengths=st.lists(st.integers(0, 300), min_size=1, max_size=200), window=st.integers(100, 3_000))
def test_batches_hold_each_piece_once_and_little_padding(lengths: list[int], window: int) -> None:
    batches = plan_batches(np.array(lengths), 200, window)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    reached = 0
    for batch in batches:
        of = [lengths[piece] for piece in batch]
        assert len(of) == 1 or len(of) * max(of) <= 200
        assert max(of) <= 1.25 * min(of)
        # What is finished never waits for more than a window of others.
        assert sum(lengths[reached + 1 : max(batch)]) <= window
        reached = next((piece for piece in range(reached, len(lengths)) if not _done(piece, batches, batch)), reached)


def _done(piece: int, batches: list[np.ndarray], last: np.ndarray) -> bool:
    for batch in batches:
        if piece in batch:
            return True
        if batch is last:
            return False
    return False


def test_equal_pieces_stay_in_order() -> None:
    assert [batch.tolist() for batch in plan_batches(np.array([30, 30, 10, 30, 30, 11]), 60, 1_000)] == [
        [2, 5],
        [0, 1],
        [3, 4],
    ]

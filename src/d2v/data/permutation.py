"""Permutations of any size, computed entry by entry: nothing is shuffled, and nothing is kept."""

import numpy as np

_ROUNDS, _ROUNDS_OF_FEW = 8, 16  # tested: with these all orders of few, and all pairs of more, are equally likely
_FEW = 64
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def permuted(positions: np.ndarray, size: int | np.ndarray, *key: int | np.ndarray) -> np.ndarray:
    """Entries of the permutation of ``range(size)`` that belongs to a key.

    A Feistel network over two digits, left < a and right < b, where a * b is hardly more than ``size``: each round adds
    a hash of one digit to the other. That is a bijection, and what it takes out of the range goes through it again
    until it is inside (Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002: generalised Feistel
    cipher and cycle walking).

    Args:
        positions: int [n], from 0 to ``size - 1``.
        size: of the permutation, below 2**62, or int64 [n]: one for each position.
        key: integers that fit into 64 signed bits, or int64 [n] of them: a key for each position.

    Returns:
        int64 [n].
    """
    entries = np.array(positions, dtype=np.uint64)
    keys = np.broadcast_to(_hashed(key), entries.shape)
    sizes = np.broadcast_to(np.asarray(size, dtype=np.uint64), entries.shape)
    _encipher(entries, keys, sizes)
    while len(outside := np.flatnonzero(entries >= sizes)):
        again = entries[outside]
        _encipher(again, keys[outside], sizes[outside])
        entries[outside] = again
    return entries.view(np.int64)


def _encipher(values: np.ndarray, keys: np.ndarray, sizes: np.ndarray) -> None:
    """Replace uint64 values in place by what the network makes of them."""
    root = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    a = root + root % 2  # even, so that a round can be an odd permutation, without which half of all are never met
    b = (sizes + a - 1) // a
    right, left = np.divmod(values, a)
    few = sizes <= _FEW
    for number in range(_ROUNDS_OF_FEW if few.any() else _ROUNDS):
        more = 0 if number < _ROUNDS else ~few  # these have had all of their rounds
        if number % 2:
            right = np.where(more, right, (right + (_mix(left + keys) >> 2)) % b)
        else:
            left = np.where(more, left, (left + (_mix(right + keys) >> 2)) % a)
        keys = keys + _GOLDEN  # another hash in each round
    values[:] = right * a + left


def _hashed(key: tuple[int | np.ndarray, ...]) -> np.ndarray:
    """The numbers of a key as one, uint64 [1] or [n]."""
    hashed = np.zeros(1, dtype=np.uint64)
    for part in key:
        hashed = _mix((hashed ^ np.atleast_1d(np.asarray(part, dtype=np.int64)).view(np.uint64)) + _GOLDEN)
    return hashed


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, as in ``model/randomness.py``, for the main process's small arrays on the CPU."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)

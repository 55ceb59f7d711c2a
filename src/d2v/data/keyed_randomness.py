"""Randomness that is a function of a key, never of a worker, a rank or what ran before."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from struct import pack

import numpy as np
import torch


def stable_seed(*key: int) -> int:
    """Hash integers (each within 64 signed bits) into a seed of 63 bits; equal on every machine and Python."""
    return int.from_bytes(blake2b(pack(f"<{len(key)}q", *key), digest_size=8).digest(), "little") >> 1


@contextmanager
def keyed_randomness(*key: int) -> Iterator[None]:
    """Inside, torch's global CPU generator starts from ``stable_seed(*key)``; outside, nothing has moved.

    ``torch.manual_seed`` would also reseed the GPU, whose dropout would then repeat itself whenever samples are loaded
    in the main process; so only the CPU generator is touched.
    """
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(stable_seed(*key))
    try:
        yield
    finally:
        generator.set_state(state)


@contextmanager
def python_follows_torch() -> Iterator[None]:
    """Inside, the global generators of Python and numpy start from a number drawn from torch's; outside, they have not
    moved. So what draws from them (timm) has the key that torch was seeded with."""
    seed = int(torch.randint(2**32, (), device="cpu"))
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (others draw from it)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002

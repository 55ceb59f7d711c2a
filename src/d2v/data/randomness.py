"""Randomness that is a function of a key, never of a worker, a rank or what ran before."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from struct import pack

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

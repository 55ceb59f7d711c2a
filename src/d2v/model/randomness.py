"""Random numbers that are a function of a key alone: not of the batch, the worker, the rank or the device.

A counter-based generator: each number is a hash of (key, counter), computed for a whole batch at once with integer
tensor operations, so that a CPU and a GPU give the same bits and nothing has to be stored for an exact resume.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # torch shifts signed integers arithmetically


def mix(x: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit."""
    x = (x ^ _shift_right(x, 30)) * -4658895280553007687
    x = (x ^ _shift_right(x, 27)) * -7723592293110705685
    return x ^ _shift_right(x, 31)


def combine_keys(*parts: Int64[Tensor, "..."] | int) -> Int64[Tensor, "..."]:
    """Hash several integers, in order, into one key; tensors broadcast."""
    device = next((part.device for part in parts if isinstance(part, Tensor)), None)
    key = torch.zeros((), dtype=torch.int64, device=device)
    for part in parts:
        key = mix((key ^ part) + _GOLDEN)
    return key


def keyed_uniform(keys: Int64[Tensor, "r"], count: int, stream: int = 0) -> Float[Tensor, "r count"]:
    """``count`` numbers in [0, 1) for each key. ``stream`` numbers independent draws from the same key."""
    counter = torch.arange(1, count + 1, dtype=torch.int64, device=keys.device)
    bits = mix(combine_keys(keys, stream)[:, None] + counter * _GOLDEN)
    return _shift_right(bits, 40).to(torch.float32) * 2.0**-24  # the 24 bits that a float32 holds exactly


def with_exact_count(
    chosen: Bool[Tensor, "r n"],
    count: int | Int64[Tensor, "r"],
    keys: Int64[Tensor, "r"],
    num_valid: Int64[Tensor, "r"] | None = None,
) -> Bool[Tensor, "r n"]:
    """Add or remove random tokens until ``count`` are chosen in every row, all among its first ``num_valid``."""
    position = torch.arange(chosen.shape[1], device=keys.device)
    # Chosen tokens rank before the others, in random order within each group; the first `count` win.
    rank = chosen.float() + keyed_uniform(keys, chosen.shape[1], stream=0)
    if num_valid is not None:
        rank = torch.where(position < num_valid[:, None], rank, -1.0)
    order = rank.argsort(dim=1, descending=True, stable=True)
    count = count if isinstance(count, int) else count[:, None]
    return torch.zeros_like(chosen).scatter_(1, order, (position < count).expand_as(order))

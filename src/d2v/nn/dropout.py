"""Dropout whose random numbers do not cost more than the product of matrices beside it."""

import math

import numpy as np
import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """torch's, but on a CPU drawn by :func:`kept`."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p in (0, 1) or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        return x * kept(x, self.p)


def kept(x: Tensor, p: float) -> Tensor:
    """Zeros with probability ``p``, else what keeps the mean: the factors of a dropout of ``x``, on a CPU.

    torch draws each in 7 ns and with one thread, whatever it may use. Here torch's generator gives a seed, and four
    numbers of 16 bits are cut from each of numpy's (SFC64): 1 ns. ``p`` is rounded to a multiple of 2^-16.
    """
    threshold = round(p * 2**16)
    seed = int(torch.randint(2**62, ()))
    bits = np.random.SFC64(seed).random_raw(math.ceil(x.numel() / 4)).view(np.int16)[: x.numel()]
    factors = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(torch.from_numpy(bits).view(x.shape), threshold - 2**15, out=factors)
    return factors.mul_(2**16 / (2**16 - threshold))

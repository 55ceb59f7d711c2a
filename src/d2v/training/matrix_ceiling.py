"""The most that a device computes: what it reaches in products of large square matrices, and nothing else."""

import time

import torch

LARGEST = 8192
_SMALLEST, _REPEATS = 512, 3


def matrix_ceiling(device: torch.device, dtype: torch.dtype, seconds: float = 0.1) -> float:
    """Operations a second, the best of several sizes and repeats; settings such as TF32 and the threads are as set.

    Args:
        device: Which one.
        dtype: Of the matrices.
        seconds: About how long it may take.
    """
    best, size, began = 0.0, _SMALLEST, time.perf_counter()
    while True:
        generator = torch.Generator(device).manual_seed(0)  # that of a run does not move
        a, b = torch.randn(2, size, size, device=device, generator=generator).to(dtype)
        took = min(_seconds(a, b) for _ in range(_REPEATS + 1))  # the first one also warms up
        best = max(best, 2 * size**3 / took)
        passed = time.perf_counter() - began
        if size >= LARGEST or passed + 8 * took * (_REPEATS + 2) > seconds:
            return best
        size *= 2


def dtype_of(precision: str) -> torch.dtype:
    """In which products are computed at a ``trainer.precision``."""
    for name, dtype in (("bf16", torch.bfloat16), ("16", torch.float16), ("64", torch.float64)):
        if name in precision:
            return dtype
    return torch.float32


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of one product; on a GPU of several at once, so that their start does not count."""
    count = 1
    if a.is_cuda:
        count = 8
        torch.cuda.synchronize(a.device)
    began = time.perf_counter()
    for _ in range(count):
        torch.mm(a, b)
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    return (time.perf_counter() - began) / count

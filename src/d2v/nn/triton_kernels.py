"""Kernels for NVIDIA GPUs in Triton: grouped convolutions, and layer norm with GELU; all channels last.

Imported where a tensor lies on such a device (``d2v.nn.grouped_convolution``, ``norm_gelu``): torch for CPUs comes
without Triton. What is tuned on the device, once for each kind of layer, never changes the order of a sum, so that
another process that tuned otherwise computes the same bits. Sizes that change from batch to batch are plain arguments:
no new length compiles or tunes anything.

A convolution is a product of matrices whose left one is never stored: a row is a place of the grid, a column one
channel of one tap of the kernel, and each block of it is gathered as it is multiplied (implicit GEMM). Columns run over
taps and channels together, so that 48 or 24 channels fill blocks of 64.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_K = 64
"""Products that one step of a convolution adds up; places that one step of a weight gradient does. Fixed: see above."""


def _configs(name: str) -> list[Any]:
    """Tiles, with 4 or 8 warps (one or two warpgroups) and 3 or 4 blocks on their way; no tuning when interpreted."""
    choices = [(64, 4, 4), (128, 4, 3), (128, 8, 3), (256, 8, 3)]
    if triton.knobs.runtime.interpret:
        choices = choices[:1]
    return [triton.Config({name: size}, num_warps=warps, num_stages=stages) for size, warps, stages in choices]


_KIND = ["GROUPS", "IN", "OUT", "ROWS", "COLUMNS", "PRECISION"]
_SIZES = ["positions", "height", "width"]


@triton.autotune(configs=_configs("BLOCK_P"), key=[*_KIND, "SIGN"])
@triton.jit(do_not_specialize=_SIZES)
def _convolve(
    x, weight, bias, out, positions, height, width,
    GROUPS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    SIGN: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):  # fmt: skip
    # x [positions, GROUPS * IN], weight [GROUPS * OUT, taps * IN], out [positions, GROUPS * OUT]; SIGN -1 turns the
    # kernel round. Groups of one block of places run side by side: their channels share lines of memory.
    DEPTH: tl.constexpr = ROWS * COLUMNS * IN
    group = tl.program_id(0) % GROUPS
    start = (tl.program_id(0) // GROUPS).to(tl.int64) * BLOCK_P
    place = tl.arange(0, BLOCK_P)
    inside = place < positions - start
    local = (start % (height * width)).to(tl.int32) + place
    row = local // width % height
    column = local % width
    output = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    x += start * (GROUPS * IN) + group * IN
    weight += group * (OUT * DEPTH)
    sums = tl.zeros((BLOCK_P, BLOCK_OUT), tl.float32)
    for first in range(0, DEPTH, BLOCK_C):
        k = first + tl.arange(0, BLOCK_C)
        tap = k // IN
        down = SIGN * (tap // COLUMNS - ROWS // 2)
        right = SIGN * (tap % COLUMNS - COLUMNS // 2)
        there_row = row[:, None] + down[None, :]
        there_column = column[:, None] + right[None, :]
        exists = (there_row >= 0) & (there_row < height) & (there_column >= 0) & (there_column < width)
        exists = exists & inside[:, None] & (k < DEPTH)[None, :]
        offset = (place[:, None] + (down * width + right)[None, :]) * (GROUPS * IN) + (k % IN)[None, :]
        inputs = tl.load(x + offset, mask=exists, other=0.0)
        kept = (k < DEPTH)[:, None] & (output < OUT)[None, :]
        weights = tl.load(weight + output[None, :] * DEPTH + k[:, None], mask=kept, other=0.0)
        sums = tl.dot(inputs, weights, sums, input_precision=PRECISION)
    if HAS_BIAS:
        sums += tl.load(bias + group * OUT + output, mask=output < OUT, other=0.0).to(tl.float32)[None, :]
    out += start * (GROUPS * OUT) + group * OUT
    kept = inside[:, None] & (output < OUT)[None, :]
    tl.store(out + place[:, None] * (GROUPS * OUT) + output[None, :], sums.to(out.dtype.element_ty), mask=kept)


@triton.autotune(configs=_configs("BLOCK_C"), key=_KIND)
@triton.jit(do_not_specialize=[*_SIZES, "share"])
def _weight_gradient(
    x, grad, partial, positions, height, width, share,
    GROUPS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    # partial [splits, GROUPS, taps * IN, OUT], fp32: what `share` places give, each by one program.
    DEPTH: tl.constexpr = ROWS * COLUMNS * IN
    BLOCKS: tl.constexpr = (DEPTH + BLOCK_C - 1) // BLOCK_C
    group = tl.program_id(0) % GROUPS
    k = tl.program_id(0) // GROUPS % BLOCKS * BLOCK_C + tl.arange(0, BLOCK_C)
    output = tl.program_id(0) // (GROUPS * BLOCKS) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    begin = tl.program_id(1).to(tl.int64) * share
    tap = k // IN
    down = tap // COLUMNS - ROWS // 2
    right = tap % COLUMNS - COLUMNS // 2
    x += begin * (GROUPS * IN) + group * IN
    grad += begin * (GROUPS * OUT) + group * OUT
    reach = (down * width + right) * (GROUPS * IN) + k % IN
    origin = (begin % (height * width)).to(tl.int32)
    sums = tl.zeros((BLOCK_C, BLOCK_OUT), tl.float32)
    for first in range(0, share, BLOCK_P):
        place = first + tl.arange(0, BLOCK_P)
        inside = place < positions - begin
        there_row = ((origin + place) // width % height)[None, :] + down[:, None]
        there_column = ((origin + place) % width)[None, :] + right[:, None]
        exists = (there_row >= 0) & (there_row < height) & (there_column >= 0) & (there_column < width)
        exists = exists & inside[None, :] & (k < DEPTH)[:, None]
        inputs = tl.load(x + place[None, :] * (GROUPS * IN) + reach[:, None], mask=exists, other=0.0)
        kept = inside[:, None] & (output < OUT)[None, :]
        grads = tl.load(grad + place[:, None] * (GROUPS * OUT) + output[None, :], mask=kept, other=0.0)
        sums = tl.dot(inputs, grads, sums, input_precision=PRECISION)
    partial += (tl.program_id(1).to(tl.int64) * GROUPS + group) * (DEPTH * OUT)
    kept = (k < DEPTH)[:, None] & (output < OUT)[None, :]
    tl.store(partial + k[:, None] * OUT + output[None, :], sums, mask=kept)


def _on_its_device(function: Callable) -> Callable:
    """Triton launches on the current device, which need not be that of the tensors."""

    @wraps(function)
    def run(first: Tensor, *rest: Any) -> Any:
        with torch.cuda.device_of(first):
            return function(first, *rest)

    return run


@_on_its_device
def convolve(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """As in ``d2v.nn.plain_kernels``, like all functions here."""
    outputs, inputs, *_ = weight.shape
    packed = weight.reshape(groups, outputs // groups, inputs, -1).transpose(2, 3)  # [G, E/G, taps, C/G]
    return _run_convolve(x, _copied(packed, x.dtype), bias, groups, _window(weight.shape[2:]), sign=1)


@_on_its_device
def input_gradient(grad: Tensor, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """The same convolution with the kernel turned round, and outputs for inputs."""
    outputs, inputs, *_ = weight.shape
    packed = weight.reshape(groups, outputs // groups, inputs, -1).permute(0, 2, 3, 1)  # [G, C/G, taps, E/G]
    return _run_convolve(grad, _copied(packed, grad.dtype), None, groups, _window(weight.shape[2:]), sign=-1)


@_on_its_device
def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Sums over fixed shares of the places, then over the shares; no atomic addition."""
    grad, x = grad.contiguous(), x.contiguous()
    (height, width), window = _window(x.shape[1:-1]), _window(weight.shape[2:])
    inputs, outputs, depth = weight.shape[1], len(weight) // groups, weight[0].numel()
    positions = x.numel() // x.shape[-1]
    splits = min(32, triton.cdiv(positions, 1024))
    share = triton.cdiv(triton.cdiv(positions, splits), BLOCK_K) * BLOCK_K
    splits = triton.cdiv(positions, share)
    partial = torch.empty(splits, groups, depth, outputs, device=x.device)
    block_out = _block(outputs)

    def grid(tile: dict[str, Any]) -> tuple[int, int]:
        return groups * triton.cdiv(depth, tile["BLOCK_C"]) * triton.cdiv(outputs, block_out), splits

    _weight_gradient[grid](
        x, grad, partial, positions, height, width, share, groups, inputs, outputs, *window,
        PRECISION=_precision(x), BLOCK_OUT=block_out, BLOCK_P=BLOCK_K,
    )  # fmt: skip
    of_weight = partial.sum(0).view(groups, -1, inputs, outputs).permute(0, 3, 2, 1)  # [G, E/G, C/G, taps]
    of_bias = grad.flatten(0, -2).sum(0, dtype=torch.float32)
    return of_weight.reshape(weight.shape).to(weight.dtype), of_bias.to(weight.dtype)


def _run_convolve(
    x: Tensor, packed: Tensor, bias: Tensor | None, groups: int, window: tuple[int, int], sign: int
) -> Tensor:
    x = x.contiguous()
    height, width = _window(x.shape[1:-1])
    positions, outputs, inputs = x.numel() // x.shape[-1], packed.shape[1], packed.shape[3]
    out = torch.empty(*x.shape[:-1], groups * outputs, device=x.device, dtype=x.dtype)
    block_out = _block(outputs)

    def grid(tile: dict[str, Any]) -> tuple[int, int]:
        return groups * triton.cdiv(positions, tile["BLOCK_P"]), triton.cdiv(outputs, block_out)

    _convolve[grid](
        x, packed, packed if bias is None else bias, out, positions, height, width, groups, inputs, outputs, *window,
        SIGN=sign, HAS_BIAS=bias is not None, PRECISION=_precision(x), BLOCK_OUT=block_out, BLOCK_C=BLOCK_K,
    )  # fmt: skip
    return out


def _copied(values: Tensor, dtype: torch.dtype) -> Tensor:
    """A view in memory of its own and another type, in one kernel."""
    return torch.empty(values.shape, device=values.device, dtype=dtype).copy_(values)


def _window(sizes: torch.Size) -> tuple[int, int]:
    """Rows and columns of a grid or kernel; a sequence has one row."""
    return (1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def _block(channels: int) -> int:
    return min(128, max(16, triton.next_power_of_2(channels)))


def _precision(x: Tensor) -> str:
    """What torch's own convolutions do with fp32 (``torch.backends.cudnn.conv.fp32_precision``)."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    exact = x.dtype == torch.float32 and convolutions.fp32_precision != "tf32"
    return "ieee" if exact else "tf32"


@triton.jit
def _norm_gelu(y, residual, out, WIDTH: tl.constexpr, HAS_RESIDUAL: tl.constexpr, BLOCK: tl.constexpr):
    channel = tl.arange(0, BLOCK)
    kept = channel < WIDTH
    offset = tl.program_id(0).to(tl.int64) * WIDTH + channel
    values = tl.load(y + offset, mask=kept, other=0.0).to(tl.float32)
    centred = tl.where(kept, values - tl.sum(values, 0) / WIDTH, 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, 0) / WIDTH + 1e-5)
    result = normed * (0.5 + 0.5 * tl.erf(normed * 0.7071067811865476))
    if HAS_RESIDUAL:
        result += tl.load(residual + offset, mask=kept, other=0.0).to(tl.float32)
    tl.store(out + offset, result.to(out.dtype.element_ty), mask=kept)


@triton.jit
def _norm_gelu_gradient(grad, y, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    channel = tl.arange(0, BLOCK)
    kept = channel < WIDTH
    offset = tl.program_id(0).to(tl.int64) * WIDTH + channel
    values = tl.load(y + offset, mask=kept, other=0.0).to(tl.float32)
    centred = tl.where(kept, values - tl.sum(values, 0) / WIDTH, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / WIDTH + 1e-5)
    normed = centred * scale
    density = 0.3989422804014327 * tl.exp(-0.5 * normed * normed)
    slope = 0.5 + 0.5 * tl.erf(normed * 0.7071067811865476) + normed * density
    grads = tl.load(grad + offset, mask=kept, other=0.0).to(tl.float32) * slope
    shared = tl.sum(grads, 0) / WIDTH + normed * (tl.sum(grads * normed, 0) / WIDTH)
    tl.store(out + offset, (scale * (grads - shared)).to(out.dtype.element_ty), mask=kept)


@_on_its_device
def norm_gelu(y: Tensor, residual: Tensor | None) -> Tensor:
    """In fp32 within; one program a row."""
    y, width = y.contiguous(), y.shape[-1]
    out = torch.empty_like(y)
    other = y if residual is None else residual.contiguous()
    _norm_gelu[(y.numel() // width,)](y, other, out, width, residual is not None, triton.next_power_of_2(width))
    return out


@_on_its_device
def norm_gelu_gradient(grad: Tensor, y: Tensor) -> Tensor:
    """Mean and deviation are computed again, which is less than to read them."""
    y, width = y.contiguous(), y.shape[-1]
    out = torch.empty_like(y)
    rows = y.numel() // width
    _norm_gelu_gradient[(rows,)](grad.contiguous(), y, out, width, triton.next_power_of_2(width))
    return out

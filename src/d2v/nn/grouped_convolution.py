"""Grouped convolutions that keep the size of the grid, channels last in and out."""

from types import ModuleType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from d2v.nn.autocast import autocast_dtype
from d2v.nn.trusted_kernels import operation, trusted_kernels


class GroupedConvolution(nn.Module):
    """``nn.Conv1d`` or ``nn.Conv2d`` with padding "same" and channels last, as the norms and projections want them.

    Weights have torch's names, shapes and first values. Forward and backward passes are one operation each, which
    ``torch.compile`` leaves as it is:

    - On CUDA a Triton kernel of ours (``d2v.nn.triton_kernels``), once it has computed on this device what torch does;
      cuDNN would copy channels to the front and back around each grouped convolution. With a single group cuDNN runs.
    - Else torch's convolution of a view that has its channels last; for a sequence, the weights' gradient with the
      channels in front, which oneDNN computes up to twice as fast (benchmarks/performance_log.md).

    Sums are in fp32, and so is the gradient of fp32 weights under autocast on CUDA. Every result is the same bits each
    time. No second derivatives.

    Args:
        in_channels: C.
        out_channels: E.
        kernel_size: Side of the kernel in tokens; odd.
        groups: Groups of channels.
        dimensions: 1: sequences; 2: pictures.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, groups: int, dimensions: Literal[1, 2]
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that the grid keeps its size, not {kernel_size}")
        self.groups = groups
        convolution = (nn.Conv1d, nn.Conv2d)[dimensions - 1](in_channels, out_channels, kernel_size, groups=groups)
        self.weight = convolution.weight
        self.bias = convolution.bias

    def forward(self, x: Float[Tensor, "r *grid c"]) -> Float[Tensor, "r *grid e"]:
        if torch.compiler.is_exporting():  # programs for others have plain convolutions, of a grid of any size
            convolve = (F.conv1d, F.conv2d)[x.ndim - 3]
            return convolve(x.movedim(-1, 1), self.weight, self.bias, padding="same", groups=self.groups).movedim(1, -1)
        return grouped_convolution(x.to(autocast_dtype(x)), self.weight, self.bias, self.groups)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    kernels = _kernels(x, weight, groups)
    if kernels is None:
        return plain_convolve(x, weight, bias, groups)
    with torch.cuda.device_of(x):
        return kernels.convolve(x, weight, bias, groups)


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    kernels = _kernels(x, weight, groups)
    if kernels is None:
        return plain_input_gradient(grad, x, weight, groups)
    with torch.cuda.device_of(x):
        return kernels.input_gradient(grad, x, weight, groups)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    kernels = _kernels(x, weight, groups)
    if kernels is None:
        return plain_weight_gradient(grad, x, weight, groups)
    with torch.cuda.device_of(x):
        return kernels.weight_gradient(grad, x, weight, groups)


grouped_convolution = operation(
    "grouped_convolution(Tensor x, Tensor weight, Tensor bias, int groups) -> Tensor",
    _convolve,
    lambda x, weight, bias, groups: x.new_empty(*x.shape[:-1], len(weight)),
)
"""[R, *grid, C] -> [R, *grid, E] in the type of ``x``, with weights [E, C / groups, *kernel] of any type."""

input_gradient = operation(
    "grouped_convolution_input_gradient(Tensor grad, Tensor x, Tensor weight, int groups) -> Tensor",
    _input_gradient,
    lambda grad, x, weight, groups: x.new_empty(x.shape),
)
"""Gradient of ``x``, given that of the output."""

weight_gradient = operation(
    "grouped_convolution_weight_gradient(Tensor grad, Tensor x, Tensor weight, int groups) -> (Tensor, Tensor)",
    _weight_gradient,
    lambda grad, x, weight, groups: (weight.new_empty(weight.shape), weight.new_empty(len(weight))),
)
"""Gradients of weights and biases, given that of the output."""


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weight, _, ctx.groups = inputs
    ctx.save_for_backward(x, weight)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    of_x = of_weight = of_bias = None
    if ctx.needs_input_grad[0]:
        of_x = input_gradient(grad, x, weight, ctx.groups)
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        of_weight, of_bias = weight_gradient(grad, x, weight, ctx.groups)
    return of_x, of_weight, of_bias, None


torch.library.register_autograd("d2v::grouped_convolution", _gradients, setup_context=_save)


def plain_convolve(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """The same by torch: a sequence is a picture of one row, and a view of it has its channels last in memory."""
    weight, bias = _as_2d(weight).to(x.dtype), bias.to(x.dtype)
    return _restored(F.conv2d(_channels_first(x), weight, bias, padding="same", groups=groups), x)


def plain_input_gradient(grad: Tensor, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    weight = _as_2d(weight).to(x.dtype)
    of_x, _, _ = _backward(_channels_first(grad), _channels_first(x), weight, groups, [True, False, False])
    return _restored(of_x, x)


def plain_weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    kernel, grad_first, x_first = _as_2d(weight).to(x.dtype), _channels_first(grad), _channels_first(x)
    if x.ndim == 3 and x.device.type == "cpu":
        grad_first, x_first = grad_first.contiguous(), x_first.contiguous()
    _, of_weight, of_bias = _backward(grad_first, x_first, kernel, groups, [False, True, True])
    return of_weight.reshape(weight.shape).to(weight.dtype), of_bias.to(weight.dtype)


def _backward(grad: Tensor, x: Tensor, weight: Tensor, groups: int, wanted: list[bool]) -> tuple[Tensor, ...]:
    padding = [weight.shape[2] // 2, weight.shape[3] // 2]
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [len(weight)], [1, 1], padding, [1, 1], False, [0, 0], groups, wanted
    )


def _as_2d(weight: Tensor) -> Tensor:
    return weight.unsqueeze(2) if weight.ndim == 3 else weight


def _channels_first(x: Tensor) -> Tensor:
    """[R, *grid, C] -> [R, C, rows, columns], a view."""
    return (x.unsqueeze(1) if x.ndim == 3 else x).movedim(-1, 1)


def _restored(y: Tensor, x: Tensor) -> Tensor:
    """[R, E, rows, columns] -> [R, *grid, E], the grid as in ``x``; a view, where torch kept the channels last."""
    return y.movedim(1, -1).reshape(*x.shape[:-1], y.shape[1]).contiguous()


def _kernels(x: Tensor, weight: Tensor, groups: int) -> ModuleType | None:
    if groups == 1:
        return None

    def trial(kernels: ModuleType) -> list[tuple[Tensor, Tensor]]:
        # As many places as a batch has, about: the kernels are tuned on them.
        grid = (96, 181) if weight.ndim == 4 else (17377,)
        generator = torch.Generator(x.device).manual_seed(0)
        inputs = torch.randn(1, *grid, weight.shape[1] * groups, generator=generator, device=x.device).to(x.dtype)
        grad = torch.randn(1, *grid, len(weight), generator=generator, device=x.device).to(x.dtype)
        weights = torch.randn(weight.shape, generator=generator, device=x.device)
        bias = torch.randn(len(weight), generator=generator, device=x.device)
        return compare(kernels, grad, inputs, weights, bias, groups)

    return trusted_kernels(x, f"{groups} groups of {weight.shape[1]} with weights {tuple(weight.shape)}", trial)


def compare(
    kernels: ModuleType, grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, groups: int
) -> list[tuple[Tensor, Tensor]]:
    """What kernels compute beside what torch computes in fp32: output, and gradients of input, weights, biases."""
    of_weight, of_bias = kernels.weight_gradient(grad, x, weight, groups)
    ours = [kernels.convolve(x, weight, bias, groups), kernels.input_gradient(grad, x, weight, groups)]
    grad, weight, x = grad.float(), weight.to(x.dtype).float(), x.float()
    plain = [plain_convolve(x, weight, bias, groups), plain_input_gradient(grad, x, weight, groups)]
    plain += plain_weight_gradient(grad, x, weight, groups)
    return list(zip([*ours, of_weight, of_bias], plain, strict=True))

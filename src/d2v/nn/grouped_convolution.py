"""Grouped convolutions that keep the size of the grid, channels last in and out."""

from types import ModuleType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from d2v.nn import plain_kernels
from d2v.nn.autocast import autocast_dtype
from d2v.nn.trusted_kernels import operation, trusted_kernels


class GroupedConvolution(nn.Module):
    """``nn.Conv1d`` or ``nn.Conv2d`` with padding "same" and channels last, as the norms and projections want them.

    Weights have torch's names, shapes and first values. Forward and backward passes are one operation each, which
    ``torch.compile`` leaves as it is:

    - On CUDA a Triton kernel of ours (``d2v.nn.triton_kernels``), once it has computed on this device what torch does;
      cuDNN would copy channels to the front and back around each grouped convolution. With a single group cuDNN runs.
    - Else torch's convolution of a view that has its channels last. On a CPU and in fp32, sequences are copied to have
      their channels in front for one group, and for the weights' gradient: oneDNN is up to twice as fast so.

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


grouped_convolution = operation(
    "grouped_convolution(Tensor x, Tensor weight, Tensor bias, int groups) -> Tensor",
    lambda x, weight, bias, groups: _kernels(x, weight, groups).convolve(x, weight, bias, groups),
    lambda x, weight, bias, groups: x.new_empty(*x.shape[:-1], len(weight)),
)
input_gradient = operation(
    "grouped_convolution_input_gradient(Tensor grad, Tensor x, Tensor weight, int groups) -> Tensor",
    lambda grad, x, weight, groups: _kernels(x, weight, groups).input_gradient(grad, x, weight, groups),
    lambda grad, x, weight, groups: x.new_empty(x.shape),
)
weight_gradient = operation(
    "grouped_convolution_weight_gradient(Tensor grad, Tensor x, Tensor weight, int groups) -> (Tensor, Tensor)",
    lambda grad, x, weight, groups: _kernels(x, weight, groups).weight_gradient(grad, x, weight, groups),
    lambda grad, x, weight, groups: (weight.new_empty(weight.shape), weight.new_empty(len(weight))),
)


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


def _kernels(x: Tensor, weight: Tensor, groups: int) -> ModuleType:
    if groups == 1:
        return plain_kernels  # cuDNN multiplies dense matrices with the channels last

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
    ours = [kernels.convolve(x, weight, bias, groups), kernels.input_gradient(grad, x, weight, groups)]
    ours += kernels.weight_gradient(grad, x, weight, groups)
    grad, weight, x = grad.float(), weight.to(x.dtype).float(), x.float()
    plain = [plain_kernels.convolve(x, weight, bias, groups), plain_kernels.input_gradient(grad, x, weight, groups)]
    plain += plain_kernels.weight_gradient(grad, x, weight, groups)
    return list(zip(ours, plain, strict=True))

"""What follows each convolution over tokens: layer norm without parameters, GELU, and the residual."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from d2v.nn import plain_kernels
from d2v.nn.trusted_kernels import operation, trusted_kernels


def norm_gelu(y: Tensor, residual: Tensor | None = None) -> Tensor:
    """``residual + gelu(layer_norm(y))`` over the last axis, in the type of ``y``.

    On CUDA one kernel of ours in each direction (``d2v.nn.triton_kernels``), which computes in fp32 and keeps nothing
    but ``y`` for the backward pass: there autocast would write norm, GELU and sum in fp32, each by itself.
    """
    if y.is_cuda and not torch.compiler.is_exporting():
        return norm_gelu_residual(y, residual)
    return plain_kernels.norm_gelu(y, residual)


norm_gelu_residual = operation(
    "norm_gelu_residual(Tensor y, Tensor? residual) -> Tensor",
    lambda y, residual: _kernels(y).norm_gelu(y, residual),
    lambda y, residual: y.new_empty(y.shape),
)
norm_gelu_gradient = operation(
    "norm_gelu_gradient(Tensor grad, Tensor y) -> Tensor",
    lambda grad, y: _kernels(y).norm_gelu_gradient(grad, y),
    lambda grad, y: y.new_empty(y.shape),
)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    y, residual = inputs
    ctx.residual_dtype = None if residual is None else residual.dtype
    ctx.save_for_backward(y)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    of_residual = None
    if ctx.residual_dtype is not None:
        of_residual = grad.to(ctx.residual_dtype)
    return norm_gelu_gradient(grad, *ctx.saved_tensors), of_residual


torch.library.register_autograd("d2v::norm_gelu_residual", _gradients, setup_context=_save)


def _kernels(y: Tensor) -> ModuleType:
    def trial(kernels: ModuleType) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator(y.device).manual_seed(0)
        numbers = torch.randn(3, 999, y.shape[-1], generator=generator, device=y.device).to(y.dtype)
        return compare(kernels, *numbers)

    return trusted_kernels(y, f"layer norm and GELU of {y.shape[-1]} channels", trial)


def compare(kernels: ModuleType, y: Tensor, residual: Tensor, grad: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What kernels compute beside torch in fp32: output, without a residual and with one, and gradient."""
    wide, wide_residual, wide_grad = y.float(), residual.float(), grad.float()
    return [
        (kernels.norm_gelu(y, None), plain_kernels.norm_gelu(wide, None)),
        (kernels.norm_gelu(y, residual), plain_kernels.norm_gelu(wide, wide_residual)),
        (kernels.norm_gelu_gradient(grad, y), plain_kernels.norm_gelu_gradient(wide_grad, wide)),
    ]

"""What follows each convolution over tokens: layer norm without parameters, GELU, and the residual."""

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d2v.nn.trusted_kernels import operation, trusted_kernels


def norm_gelu(y: Tensor, residual: Tensor | None = None) -> Tensor:
    """``residual + gelu(layer_norm(y))`` over the last axis, in the type of ``y``.

    On CUDA one kernel of ours in each direction (``d2v.nn.triton_kernels``), which computes in fp32 and keeps nothing
    but ``y`` for the backward pass: there autocast would write norm, GELU and sum in fp32, each by itself.
    """
    if y.is_cuda and not torch.compiler.is_exporting():
        return norm_gelu_residual(y, residual)
    return plain_norm_gelu(y, residual)


def _norm_gelu(y: Tensor, residual: Tensor | None) -> Tensor:
    kernels = _kernels(y)
    if kernels is None:
        return plain_norm_gelu(y, residual)
    with torch.cuda.device_of(y):
        return kernels.norm_gelu(y, residual)


def _norm_gelu_gradient(grad: Tensor, y: Tensor) -> Tensor:
    kernels = _kernels(y)
    if kernels is None:
        return plain_norm_gelu_gradient(grad, y)
    with torch.cuda.device_of(y):
        return kernels.norm_gelu_gradient(grad, y)


norm_gelu_residual = operation(
    "norm_gelu_residual(Tensor y, Tensor? residual) -> Tensor",
    _norm_gelu,
    lambda y, residual: y.new_empty(y.shape),
)
"""As :func:`norm_gelu`, as one operation on any device."""

norm_gelu_gradient = operation(
    "norm_gelu_gradient(Tensor grad, Tensor y) -> Tensor", _norm_gelu_gradient, lambda grad, y: y.new_empty(y.shape)
)
"""Gradient of ``y``, given that of the output; that of the residual is the latter itself."""


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


def plain_norm_gelu(y: Tensor, residual: Tensor | None) -> Tensor:
    out = F.gelu(F.layer_norm(y, y.shape[-1:])).to(y.dtype)
    return out if residual is None else out.add_(residual)  # in place: GELU needs its input only


def plain_norm_gelu_gradient(grad: Tensor, y: Tensor) -> Tensor:
    with torch.autocast(y.device.type, enabled=False):
        normed, mean, scale = torch.native_layer_norm(y, y.shape[-1:], None, None, 1e-5)
        of_normed = torch.ops.aten.gelu_backward(grad.to(y.dtype), normed)
        of_y, _, _ = torch.ops.aten.native_layer_norm_backward(
            of_normed, y, y.shape[-1:], mean, scale, None, None, [True, False, False]
        )
    return of_y


def _kernels(y: Tensor) -> ModuleType | None:
    def trial(kernels: ModuleType) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator(y.device).manual_seed(0)
        numbers = torch.randn(3, 999, y.shape[-1], generator=generator, device=y.device).to(y.dtype)
        return compare(kernels, *numbers)

    return trusted_kernels(y, f"layer norm and GELU of {y.shape[-1]} channels", trial)


def compare(kernels: ModuleType, y: Tensor, residual: Tensor, grad: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What kernels compute beside torch in fp32: output, without a residual and with one, and gradient."""
    wide, plain_sum = y.float(), plain_norm_gelu(y.float(), residual.float())
    return [
        (kernels.norm_gelu(y, None), plain_norm_gelu(wide, None)),
        (kernels.norm_gelu(y, residual), plain_sum),
        (kernels.norm_gelu_gradient(grad, y), plain_norm_gelu_gradient(grad.float(), wide)),
    ]

"""The functions of ``d2v.nn.triton_kernels`` by torch's own operations, for all devices."""

import torch
import torch.nn.functional as F
from torch import Tensor


def convolve(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """[R, *grid, C] -> [R, *grid, E] in the type of ``x``, with weights [E, C / groups, *kernel] of any type."""
    weight, bias = _as_2d(weight).to(x.dtype), bias.to(x.dtype)
    return _restored(F.conv2d(_channels_first(x, groups), weight, bias, padding="same", groups=groups), x)


def input_gradient(grad: Tensor, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Gradient of ``x``, given that of the output."""
    weight = _as_2d(weight).to(x.dtype)
    first = _channels_first(grad, groups), _channels_first(x, groups)
    of_x, _, _ = _backward(*first, weight, groups, [True, False, False])
    return _restored(of_x, x)


def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Gradients of weights and biases, given that of the output."""
    first = _channels_first(grad, groups=1), _channels_first(x, groups=1)
    _, of_weight, of_bias = _backward(*first, _as_2d(weight).to(x.dtype), groups, [False, True, True])
    return of_weight.reshape(weight.shape).to(weight.dtype), of_bias.to(weight.dtype)


def _backward(grad: Tensor, x: Tensor, weight: Tensor, groups: int, wanted: list[bool]) -> tuple[Tensor, ...]:
    padding = [weight.shape[2] // 2, weight.shape[3] // 2]
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [len(weight)], [1, 1], padding, [1, 1], False, [0, 0], groups, wanted
    )


def _as_2d(weight: Tensor) -> Tensor:
    """A sequence is a picture of one row, of which torch knows that its channels may lie last."""
    return weight.unsqueeze(2) if weight.ndim == 3 else weight


def _channels_first(x: Tensor, groups: int) -> Tensor:
    """[R, *grid, C] -> [R, C, rows, columns]: a view, but a copy where oneDNN is faster on one by more than that."""
    copied = groups == 1 and x.ndim == 3 and x.device.type == "cpu" and x.dtype == torch.float32
    first = (x.unsqueeze(1) if x.ndim == 3 else x).movedim(-1, 1)
    return first.contiguous() if copied else first


def _restored(y: Tensor, x: Tensor) -> Tensor:
    """[R, E, rows, columns] -> [R, *grid, E], the grid as in ``x``; a view, where torch kept the channels last."""
    return y.movedim(1, -1).reshape(*x.shape[:-1], y.shape[1]).contiguous()


def norm_gelu(y: Tensor, residual: Tensor | None) -> Tensor:
    """``residual + gelu(layer_norm(y))`` over the last axis, in the type of ``y``."""
    out = F.gelu(F.layer_norm(y, y.shape[-1:])).to(y.dtype)
    return out if residual is None else out.add_(residual)  # in place: GELU needs its input only


def norm_gelu_gradient(grad: Tensor, y: Tensor) -> Tensor:
    """Gradient of ``y``, given that of the output."""
    with torch.autocast(y.device.type, enabled=False):
        normed, mean, scale = torch.native_layer_norm(y, y.shape[-1:], None, None, 1e-5)
        of_normed = torch.ops.aten.gelu_backward(grad.to(y.dtype), normed)
        of_y, _, _ = torch.ops.aten.native_layer_norm_backward(
            of_normed, y, y.shape[-1:], mean, scale, None, None, [True, False, False]
        )
    return of_y

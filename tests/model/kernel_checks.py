"""Our kernels beside torch, as a program: Triton reads TRITON_INTERPRET at its import, and wants kernels unwrapped.

python kernel_checks.py interpreter|cuda    prints a JSON object: of each case, the largest error of each result
"""

import json
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v.nn import grouped_convolution, norm_gelu, triton_kernels

# rows, grid, groups, channels in and out of a group, kernel
SMALL = {
    "2-d, 48 channels, 5 x 7": (3, (5, 7), 2, 48, 48, 3),
    "48 to 24 channels, kernel 7": (3, (13,), 2, 48, 24, 7),
    "20 channels, kernel 5": (2, (9,), 2, 20, 20, 5),
    "kernel 9": (2, (11,), 2, 8, 16, 9),
    "kernel 19, longer than the clip": (1, (17,), 1, 8, 8, 19),
    "several shares and blocks": (3, (400,), 1, 16, 16, 3),
}
PUBLISHED = {
    "2.0 vision": (64, (14, 14), 16, 48, 48, 3),
    "2.0 speech, first layer": (32, (780,), 16, 48, 24, 7),
    "2.0 speech": (32, (780,), 16, 24, 24, 7),
    "speech positions": (15, (790,), 16, 48, 48, 19),
}


def interpret_bfloat16() -> None:
    """The interpreter holds bf16 as 16 bits, and multiplies matrices of them as if these were integers."""
    import triton.language as tl
    from triton.runtime import interpreter

    original = interpreter.InterpreterBuilder.create_dot

    def wide(values):
        return interpreter.TensorHandle((values.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self, a, b, *rest):
        if a.dtype.scalar == tl.bfloat16:
            a, b = (wide(values) for values in (a, b))
        return original(self, a, b, *rest)

    interpreter.InterpreterBuilder.create_dot = create_dot


def drawn(case: tuple, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    rows, grid, groups, inputs, outputs, kernel = case
    torch.manual_seed(0)
    x = torch.randn(rows, *grid, groups * inputs, device=device).to(dtype)
    grad = torch.randn(rows, *grid, groups * outputs, device=device).to(dtype)
    weight = torch.randn(groups * outputs, inputs, *[kernel] * len(grid), device=device)
    return grad, x, weight, torch.randn(groups * outputs, device=device), groups


def errors(pairs: list[tuple[Tensor, Tensor]]) -> list[float]:
    found = []
    for ours, reference in pairs:
        assert ours.shape == reference.shape
        ours, reference = ours.detach().double(), reference.detach().double()
        found.append(float((ours - reference).abs().max() / reference.abs().max()))
    return found


def deterministic(case: tuple, dtype: torch.dtype, device: str) -> bool:
    grad, x, weight, _, groups = drawn(case, dtype, device)
    first, second = (triton_kernels.weight_gradient(grad, x, weight, groups) for _ in range(2))
    return torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def through_autograd(device: str) -> list[float]:
    """Two layers as the decoder has them, with our kernels and with torch's convolution: output and all gradients."""
    layers = [nn.Conv2d(8, 8, 3, padding=1, groups=2, device=device) for _ in range(2)]
    tokens = torch.randn(2, 3, 5, 8, device=device)
    found = []
    for ours in (True, False):
        x = inputs = tokens.clone().requires_grad_()
        for layer in layers:
            if ours:
                y = grouped_convolution.grouped_convolution(x, layer.weight, layer.bias, 2)
                x = norm_gelu.norm_gelu_residual(y, x)
            else:
                y = F.layer_norm(layer(x.movedim(-1, 1)).movedim(1, -1), (8,))
                x = x + F.gelu(y)
        wanted = [inputs, *(parameter for layer in layers for parameter in layer.parameters())]
        found.append([x, *torch.autograd.grad((x**3).sum(), wanted)])
    return errors(list(zip(*found, strict=True)))


def main() -> None:
    on_cuda = sys.argv[1] == "cuda"
    device = "cuda" if on_cuda else "cpu"
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    if not on_cuda:
        torch.set_num_threads(1)
        interpret_bfloat16()
        for module in (grouped_convolution, norm_gelu):
            module._kernels = lambda *inputs: triton_kernels
    results = {}
    for name, case in (PUBLISHED if on_cuda else SMALL).items():
        for dtype in (torch.float32, torch.bfloat16):
            if dtype == torch.bfloat16 and not on_cuda and "20 channels" not in name:
                continue  # the interpreter is slow
            found = errors(grouped_convolution.compare(triton_kernels, *drawn(case, dtype, device)))
            results[f"{name}, {dtype}"] = found
    for width in (768, 20):
        for dtype in (torch.float32, torch.bfloat16):
            y, residual, grad = torch.randn(3, 2, 5, width, device=device).to(dtype)
            results[f"norm of {width}, {dtype}"] = errors(norm_gelu.compare(triton_kernels, y, residual, grad))
    results["as operations with a gradient"] = through_autograd(device)
    name = "2.0 vision" if on_cuda else "several shares and blocks"
    same = deterministic((PUBLISHED if on_cuda else SMALL)[name], torch.float32, device)
    print(json.dumps({"errors": results, "deterministic": same}))


if __name__ == "__main__":
    main()

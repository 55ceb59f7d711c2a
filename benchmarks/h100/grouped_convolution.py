"""The decoder's convolutions: are they right, and how long do they take beside torch's own?

    python benchmarks/h100/grouped_convolution.py            # one GPU, about a minute; the last line is JSON
    python benchmarks/h100/grouped_convolution.py            # without a GPU: a sixteenth of the rows, in fp32
    python benchmarks/h100/grouped_convolution.py --tiny     # a few rows on either: seconds
    python benchmarks/h100/grouped_convolution.py --compile  # no GPU: compiles all kernels for sm_90, and says what of

For each published layer, on a GPU in bf16: milliseconds forward, and forward and backward (medians, all ways in turns),
of

- ours: what the decoder does now (`d2v.nn.grouped_convolution`; Triton, or torch where the trial fails);
- strided: `conv(x.movedim(-1, 1)).movedim(1, -1)`, what the decoder did before;
- first: the same of a copy with the channels first, and a copy back;
- last: input and weights in torch's `channels_last`;

and of a whole layer with norm, GELU and residual, ours and as autocast does it. Then the largest error of output and
gradients over the largest value, against fp32; which kernels ran; whether all tiles give the same bits.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from d2v.nn.grouped_convolution import GroupedConvolution, grouped_convolution
from d2v.nn.norm_gelu import norm_gelu

# rows, grid, groups, channels in and out of all groups, kernel; at the published batches of a GPU
LAYERS = {
    "v2 vision": (1024, (14, 14), 16, 768, 768, 3),
    "v2 speech, first": (32, (780,), 16, 768, 384, 7),
    "v2 speech": (32, (780,), 16, 384, 384, 7),
    "v2 text (one group: cuDNN)": (128, (512,), 1, 768, 768, 9),
    "v1 speech positions": (15, (790,), 16, 768, 768, 19),
}
Way = Callable[[Tensor, GroupedConvolution], Tensor]


def ours(x: Tensor, layer: GroupedConvolution) -> Tensor:
    return layer(x)


def strided(x: Tensor, layer: GroupedConvolution) -> Tensor:
    convolve = (F.conv1d, F.conv2d)[x.ndim - 3]
    return convolve(x.movedim(-1, 1), layer.weight, layer.bias, padding="same", groups=layer.groups).movedim(1, -1)


def first(x: Tensor, layer: GroupedConvolution) -> Tensor:
    return strided(x.movedim(-1, 1).contiguous().movedim(1, -1), layer).contiguous()


def last(x: Tensor, layer: GroupedConvolution) -> Tensor:
    weight, inputs = layer.weight, x
    if x.ndim == 3:
        weight, inputs = weight.unsqueeze(2), x.unsqueeze(1)
    weight = weight.contiguous(memory_format=torch.channels_last)
    y = F.conv2d(inputs.movedim(-1, 1), weight, layer.bias, padding="same", groups=layer.groups).movedim(1, -1)
    return y.reshape(*x.shape[:-1], -1)


def whole_layer(x: Tensor, layer: GroupedConvolution) -> Tensor:
    y = layer(x)
    return norm_gelu(y, x.to(y.dtype) if x.shape == y.shape else None)


def whole_layer_before(x: Tensor, layer: GroupedConvolution) -> Tensor:
    y = strided(x, layer)
    normed = F.gelu(F.layer_norm(y, y.shape[-1:]))
    return x + normed if x.shape == y.shape else normed


WAYS: list[Way] = [ours, strided, first, last, whole_layer, whole_layer_before]


def milliseconds(run: Callable[[], object], device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def timings(x: Tensor, grad: Tensor, layer: GroupedConvolution, repeats: int) -> dict[str, object]:
    device, found, broken = x.device.type, {}, {}

    def step(way: Way, backward: bool) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
            y = way(x, layer)
        if backward:
            torch.autograd.grad(y, (x, layer.weight, layer.bias), grad.to(y.dtype))

    for repeat in range(repeats + 3):
        for way in WAYS:
            name = way.__name__
            for backward in (False, True):
                if name in broken:
                    continue
                try:
                    taken = milliseconds(lambda: step(way, backward), device)  # noqa: B023
                except Exception as error:
                    broken[name] = repr(error)[:200]
                    continue
                if repeat >= 3:  # the first ones compile, tune and allocate
                    found.setdefault(name, ([], []))[backward].append(taken)
    result: dict[str, object] = dict(broken)
    for name, (forward, both) in found.items():
        result[name] = [round(statistics.median(forward), 4), round(statistics.median(both), 4)]
    return result


def errors(x: Tensor, grad: Tensor, layer: GroupedConvolution) -> list[float]:
    results = []
    for way, dtype in ((ours, x.dtype), (strided, torch.float32)):
        inputs = x.detach().to(dtype).requires_grad_()
        if way is ours:
            y = grouped_convolution(inputs, layer.weight, layer.bias, layer.groups)
        else:
            y = way(inputs, layer)
        results.append([y, *torch.autograd.grad(y, (inputs, layer.weight, layer.bias), grad.to(dtype))])
    found = []
    for mine, reference in zip(*results, strict=True):
        error = (mine.detach().float() - reference.detach()).abs().max() / reference.detach().abs().max()
        found.append(float(f"{error.item():.2e}"))
    return found


def kernels_of(x: Tensor, grad: Tensor, layer: GroupedConvolution) -> list[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        y = grouped_convolution(x.detach().bfloat16().requires_grad_(), layer.weight, layer.bias, layer.groups)
        y.backward(grad.to(y.dtype))
        torch.cuda.synchronize()
    layer.weight.grad = layer.bias.grad = None
    return sorted({event.key[:80] for event in profile.key_averages()})


def tiles_agree(x: Tensor, grad: Tensor, layer: GroupedConvolution) -> bool | str:
    """Whether each tile that tuning could choose computes the same bits."""
    from d2v.nn import triton_kernels

    tuned = (triton_kernels._convolve, triton_kernels._weight_gradient)
    configs, seen = [kernel.configs for kernel in tuned], []
    x, grad, weight, bias = x.detach().bfloat16(), grad.bfloat16(), layer.weight.detach(), layer.bias.detach()
    try:
        for number in range(len(configs[0])):
            for kernel, choices in zip(tuned, configs, strict=True):
                kernel.configs = [choices[number]]  # one alone is taken as it is
            convolved = triton_kernels.convolve(x, weight, bias, layer.groups)
            seen.append((convolved, triton_kernels.weight_gradient(grad, x, weight, layer.groups)[0]))
    except Exception as error:
        return repr(error)[:200]
    finally:
        for kernel, choices in zip(tuned, configs, strict=True):
            kernel.configs = choices
    return all(torch.equal(seen[0][0], out) and torch.equal(seen[0][1], gradient) for out, gradient in seen)


def chosen_tiles() -> dict[str, str]:
    from d2v.nn import triton_kernels

    found = {}
    for kernel in (triton_kernels._convolve, triton_kernels._weight_gradient):
        for key, config in kernel.cache.items():
            found[f"{kernel.fn.__name__} {key[:7]}"] = str(config)
    return found


def compile_for_hopper() -> None:
    """What the compiler makes of each kernel and tile: shared memory, and whether it multiplies by wgmma."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from d2v.nn import triton_kernels

    numbers = {"positions": "i32", "height": "i32", "width": "i32", "share": "i32"}
    for name, (_, grid, groups, inputs, outputs, side) in LAYERS.items():
        for kernel in (triton_kernels._convolve, triton_kernels._weight_gradient):
            for config in kernel.configs:
                constants = {
                    "GROUPS": groups, "IN": inputs // groups, "OUT": outputs // groups,
                    "ROWS": side if len(grid) == 2 else 1, "COLUMNS": side, "SIGN": 1, "HAS_BIAS": True,
                    "PRECISION": "tf32", "BLOCK_OUT": triton_kernels._block(outputs // groups),
                    "BLOCK_C": triton_kernels.BLOCK_K, "BLOCK_P": triton_kernels.BLOCK_K, **config.kwargs,
                }  # fmt: skip
                function, signature, attributes, given = kernel.fn, {}, {}, {}
                for place, argument in enumerate(function.arg_names):
                    if argument in constants:
                        signature[argument] = "constexpr"
                        given[(place,)] = constants[argument]
                    elif argument in numbers:
                        signature[argument] = numbers[argument]
                    else:
                        signature[argument] = "*fp32" if argument in ("bias", "partial") else "*bf16"
                        attributes[(place,)] = [["tt.divisibility", 16]]
                source = ASTSource(fn=function, signature=signature, constexprs=given, attrs=attributes)
                options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
                compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
                products = compiled.asm["ptx"].count("wgmma.mma_async")
                print(
                    f"{name}: {function.__name__} {config}: {compiled.metadata.shared} bytes shared, {products} wgmma"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a few rows")
    parser.add_argument("--compile", action="store_true", help="compile for sm_90, without a GPU")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, help="of a CPU")
    parser.add_argument("--bf16", action="store_true", help="on a CPU, too")
    arguments = parser.parse_args()
    if arguments.compile:
        compile_for_hopper()
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" or arguments.bf16 else torch.float32
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    card = torch.cuda.get_device_name() if device == "cuda" else "none"
    report: dict[str, object] = {
        "card": card,
        "torch": torch.__version__,
        "type": str(dtype),
        "columns": ["forward ms", "both ms"],
    }
    for name, (rows, grid, groups, inputs, outputs, side) in LAYERS.items():
        if arguments.tiny:
            rows, grid = 2, tuple(min(size, 20) for size in grid)
        elif device == "cpu":
            rows = max(2, rows // 16)
        torch.manual_seed(0)
        layer = GroupedConvolution(inputs, outputs, side, groups, len(grid)).to(device)
        x = torch.randn(rows, *grid, inputs, device=device).to(dtype).requires_grad_()
        grad = torch.randn(rows, *grid, outputs, device=device).to(dtype)
        products = 2 * grad.numel() * layer.weight[0].numel()
        entry = timings(x, grad, layer, 2 if arguments.tiny else arguments.repeats)
        entry["forward GFLOP"] = round(products / 1e9, 1)
        entry["errors of output, gradients of input, weights, biases"] = errors(x[:64], grad[:64], layer)
        if device == "cuda":
            entry["kernels"] = kernels_of(x, grad, layer)
            if groups > 1:
                entry["tiles agree"] = tiles_agree(x[:64], grad[:64], layer)
        print(name, json.dumps(entry, indent=1), flush=True)
        report[name] = entry
    if device == "cuda":
        report["tiles"] = chosen_tiles()
        report["peak GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

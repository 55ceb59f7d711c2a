"""Grouped convolutions, channels last: the same numbers as torch's, by whatever kernel."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from d2v.nn import plain_kernels
from d2v.nn.grouped_convolution import GroupedConvolution, grouped_convolution
from d2v.nn.norm_gelu import norm_gelu, norm_gelu_residual
from d2v.nn.trusted_kernels import agrees, trusted_kernels

close = torch.testing.assert_close
GRIDS = {1: (11,), 2: (5, 7)}


def run_checks(where: str) -> dict[str, Any]:
    program = Path(__file__).with_name("kernel_checks.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1" if where == "interpreter" else "0"}
    command = [sys.executable, program, where]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(found: dict[str, Any], rounding: float) -> None:
    for name, errors in found["errors"].items():
        limit = rounding if "bfloat16" in name else 3e-6
        assert max(errors) < limit, (name, errors)
    assert found["deterministic"]


@pytest.mark.skipif(find_spec("triton") is None, reason="torch for CPUs comes without Triton")
def test_the_kernels_compute_what_torch_does_in_tritons_interpreter():
    check(run_checks("interpreter"), rounding=2**-7)  # it cuts bits off


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_kernels_compute_what_torch_does_on_a_gpu():
    """At the published shapes. Nobody has run it yet: no GPU was at hand when it was written."""
    check(run_checks("cuda"), rounding=2**-8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_no_layout_is_transformed_on_a_gpu():
    """Nobody has run it yet: no GPU was at hand when it was written."""
    program = """if True:
        import torch
        from d2v.nn import plain_kernels
from d2v.nn.grouped_convolution import GroupedConvolution, grouped_convolution
        layer = GroupedConvolution(768, 768, 3, 16, 2).cuda()
        x = torch.randn(64, 14, 14, 768, device="cuda", requires_grad=True)
        with torch.autocast("cuda", torch.bfloat16):
            layer(x).sum().backward()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                layer(x).sum().backward()
        print("KERNELS", [event.key for event in profile.key_averages()])
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kernels = done.stdout.partition("KERNELS")[2]
    assert "_convolve" in kernels
    assert "_weight_gradient" in kernels
    assert "nchw" not in kernels.lower()


@pytest.mark.parametrize(("groups", "width", "kernel"), [(1, 6, 3), (2, 20, 5), (2, 48, 7), (3, 24, 9), (2, 6, 19)])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_output_and_gradients_are_those_of_torchs_convolution(dimensions, groups, width, kernel):
    torch.manual_seed(0)
    layer = GroupedConvolution(groups * width, groups * 4, kernel, groups, dimensions).double()
    torch.manual_seed(0)
    theirs = (nn.Conv1d, nn.Conv2d)[dimensions - 1](
        groups * width, groups * 4, kernel, padding="same", groups=groups
    ).double()
    layer.load_state_dict(theirs.state_dict())
    x = torch.randn(3, *GRIDS[dimensions], groups * width, dtype=torch.float64, requires_grad=True)
    ours, reference = layer(x), theirs(x.movedim(-1, 1)).movedim(1, -1)
    assert ours.is_contiguous()
    close(ours, reference, rtol=0, atol=1e-12)
    gradient = torch.randn_like(reference)
    found = torch.autograd.grad(ours, (x, layer.weight, layer.bias), gradient)
    expected = torch.autograd.grad(reference, (x, theirs.weight, theirs.bias), gradient)
    close(found, expected, rtol=0, atol=1e-11)


def test_first_weights_are_torchs():
    torch.manual_seed(0)
    ours = GroupedConvolution(8, 12, 3, 2, dimensions=2).state_dict()
    torch.manual_seed(0)
    close(ours, dict(nn.Conv2d(8, 12, 3, groups=2).state_dict()), rtol=0, atol=0)


def test_autocast_and_a_stream_of_bf16_keep_gradients_of_weights_in_fp32():
    layer = GroupedConvolution(8, 8, 3, 2, dimensions=1)
    x = torch.randn(2, 9, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    of_x, of_weight, of_bias = torch.autograd.grad(y.float().sum(), (x, layer.weight, layer.bias))
    assert of_x.dtype == of_weight.dtype == of_bias.dtype == torch.float32
    close(y.float(), layer(x), rtol=0, atol=0.03)


@pytest.mark.parametrize("with_residual", [False, True])
def test_norm_and_gelu_as_one_operation_have_the_same_gradients(with_residual):
    y, residual, grad = torch.randn(3, 4, 7, 12, dtype=torch.float64)
    leaves = [y.requires_grad_()]
    if with_residual:
        leaves.append(residual.requires_grad_())
    expected = F.gelu(F.layer_norm(y, (12,)))
    if with_residual:
        expected = expected + residual
    for operation in (norm_gelu, norm_gelu_residual):
        out = operation(y, residual if with_residual else None)
        close(out, expected)
        gradients = torch.autograd.grad(out, leaves, grad)
        close(gradients, torch.autograd.grad(expected, leaves, grad, retain_graph=True))


def test_compiled_layers_are_one_graph_for_clips_of_all_lengths():
    weight, bias, graphs = torch.randn(8, 4, 3, requires_grad=True), torch.randn(8, requires_grad=True), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def layer(x):
        return norm_gelu_residual(grouped_convolution(x, weight, bias, 2), x)

    compiled = torch.compile(layer, backend=backend, fullgraph=True, dynamic=True)
    for length in (5, 9, 30):
        x = torch.randn(2, length, 8)
        close(compiled(x), layer(x))
    assert len(graphs) == 1


def test_a_kernel_that_fails_is_never_used_and_warns_once(recwarn):
    trials = []

    def trial(kernels):
        trials.append(kernels)
        raise RuntimeError("no such instruction")

    x = SimpleNamespace(is_cuda=True, device="cuda:0", dtype=torch.bfloat16, get_device=lambda: -1)
    for _ in range(3):
        assert trusted_kernels(x, "a layer of this test", trial) is plain_kernels
    assert len(trials) <= 1
    (warning,) = recwarn.list
    assert "a layer of this test on cuda:0, torch's own is used" in str(warning.message)


def test_a_kernel_that_computes_something_else_does_not_agree():
    right = torch.randn(100)
    wrong = right.clone()
    wrong[3] += 0.1
    lost = right.clone()
    lost[3] = float("nan")
    assert agrees([(right, right), (right * 1.001, right)])
    assert not agrees([(right, right), (wrong, right)])
    assert not agrees([(lost, right)])
    assert not agrees([(right, lost)])

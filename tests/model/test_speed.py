"""What makes a step fast changes nothing else: norms in bf16, one compiled graph for all blocks."""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter

from d2v.nn.block import DropPath, spread_drop_path
from d2v.nn.layer_norm import LayerNorm
from d2v.nn.transformer import Transformer
from d2v.training.callbacks.compiled_blocks import compile_blocks


def test_a_norm_stays_in_bf16_and_keeps_its_statistics_in_fp32():
    norm = LayerNorm(64, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = 30 + torch.randn(5, 7, 64)  # bf16 statistics would be far off
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
    assert y.dtype == torch.bfloat16
    rounded = [each.bfloat16().float() for each in (norm.weight, norm.bias)]
    expected = F.layer_norm(x.bfloat16().float(), (64,), *rounded, 1e-6)
    torch.testing.assert_close(y.float(), expected, rtol=2**-7, atol=2**-7)
    torch.testing.assert_close(norm(x), F.layer_norm(x, (64,), norm.weight, norm.bias, 1e-6), rtol=0, atol=0)


def test_residual_sums_of_post_norm_blocks_are_bf16():
    trunk = Transformer(width=16, depth=2, num_heads=2)
    with torch.autocast("cpu", torch.bfloat16):
        output = trunk(trunk.input_norm()(torch.randn(2, 5, 16)))
    assert {block.end.dtype for block in output.blocks} == {torch.bfloat16}


def test_drop_path_drops_rows_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 3)
    y = drop(x)
    dropped = (y == 0).all(dim=(1, 2))
    torch.testing.assert_close(y[~dropped], x[~dropped] / 0.75)
    assert dropped.float().mean() == pytest.approx(0.25, abs=0.03)
    assert drop.eval()(x) is x


def test_blocks_are_compiled_once_for_all_lengths():
    """Without a compiler: torch's tracing and its guards, which say when there is something new to compile.

    In a process of its own, because the checks of shapes in tests break graphs.
    """
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True)
    counts = json.loads(done.stdout)
    assert counts["warm"] == counts["then"] == 3  # the first of the teacher, the first of the student, those behind it
    assert counts["same"]


def graphs() -> dict[str, int | bool]:
    trunk = Transformer(width=16, depth=3, num_heads=2, norm_first=True, layer_scale=0.1)
    spread_drop_path(list(trunk.blocks), 0.3)
    x, names = torch.ones(3, 6, 16), set(trunk.state_dict())
    plain = trunk.eval()(x).x
    counter = CompileCounter()
    compile_blocks(trunk, any_length=True, backend=counter)

    def pass_through(rows: int, length: int) -> None:
        bias = torch.zeros(1, rows, 2, length, length)
        trunk.train()(torch.randn(rows, length, 16), bias).x.sum().backward()
        with torch.no_grad():  # as the teacher does
            trunk.eval()(torch.randn(rows, length, 16), bias)

    for shape in ((3, 6), (4, 11)):
        pass_through(*shape)
    warm = counter.frame_count
    for shape in ((4, 5), (2, 23), (7, 8), (5, 40), (3, 6), (11, 17)):
        pass_through(*shape)
    then = counter.frame_count
    same = set(trunk.state_dict()) == names and torch.allclose(trunk(x).x, plain, atol=1e-6)
    return {"warm": warm, "then": then, "same": same}


if __name__ == "__main__":
    print(json.dumps(graphs()))

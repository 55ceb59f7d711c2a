"""Dropout on a CPU: torch's by another generator."""

import pytest
import torch
import torch.nn.functional as F

from d2v.nn import block
from d2v.nn.dropout import Dropout, kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_share_mean_and_independence(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    factors = kept(torch.empty(500, 401, dtype=dtype), 0.1)
    assert factors.dtype == dtype
    dropped = (factors == 0).double()
    assert abs(float(dropped.mean()) - 0.1) < 0.003  # four deviations
    assert abs(float(factors.double().mean()) - 1) < 0.005
    for shift in (1, 2, 4, 401):  # neighbours, lanes of one number, rows
        values = dropped.flatten() - 0.1
        assert abs(float((values[shift:] * values[:-shift]).mean())) < 0.001


def test_torchs_seed_decides_and_each_call_draws_anew() -> None:
    dropout, x = Dropout(0.5), torch.ones(64, 3)
    torch.manual_seed(7)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(7)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(second, first)
    assert torch.equal(dropout.eval()(x), x)


def test_gradient_passes_what_was_kept() -> None:
    x = torch.ones(100, requires_grad=True)
    y = Dropout(0.25)(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("with_bias", [False, True])
def test_attention_is_torchs_where_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch, with_bias: bool) -> None:
    monkeypatch.setattr(block, "kept", lambda weights, p: torch.ones_like(weights))
    q, k, v = (torch.randn(2, 3, 9, 8, requires_grad=True) for _ in range(3))
    wanted, bias = [q, k, v], None
    if with_bias:
        bias = torch.randn(2, 3, 9, 9)
        bias[0, :, :, 6:] = bias[1] = -torch.inf  # the second sample has no key at all
        wanted.append(bias.requires_grad_())
    ours = block._attend_on_cpu(q, k, v, bias, 0.1)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, attn_mask=bias))
    for gradient in torch.autograd.grad(ours.square().sum(), wanted):
        assert bool(gradient.isfinite().all())


def test_everything_may_be_dropped() -> None:
    assert torch.equal(Dropout(1.0)(torch.ones(8)), torch.zeros(8))

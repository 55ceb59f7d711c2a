"""Targets: which blocks, which norms, which errors."""

import pytest
import torch

from d2v.model.targets import TopKTargets, normalise
from d2v.types import EncoderOutput

close = torch.testing.assert_close


@pytest.fixture
def teacher() -> EncoderOutput:
    generator = torch.Generator().manual_seed(0)
    blocks = [torch.randn(2, 7, 8, generator=generator) * (k + 1) + k for k in range(8)]
    return EncoderOutput(tokens=blocks[0], layers=tuple(blocks[:4]), ffn_outputs=tuple(blocks[4:]))


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize(("source", "field"), [("ffn", "ffn_outputs"), ("end", "layers")])
def test_the_last_k_blocks_are_averaged(teacher, top_k, source, field):
    targets = TopKTargets(top_k, source, layer_norm=None)(teacher)
    close(targets, sum(getattr(teacher, field)[4 - top_k :]) / top_k)


@pytest.mark.parametrize("layer_norm", ["layer", "instance", None])
@pytest.mark.parametrize("mean_norm", ["layer", "instance", None])
def test_norms_come_before_and_after_the_mean(teacher, layer_norm, mean_norm):
    def norm(x: torch.Tensor, kind: str | None) -> torch.Tensor:
        if kind is None:
            return x
        dim = 2 if kind == "layer" else 1
        return (x - x.mean(dim, keepdim=True)) / (x.var(dim, keepdim=True, unbiased=False) + 1e-5).sqrt()

    targets = TopKTargets(3, "ffn", layer_norm, mean_norm)(teacher)
    close(targets, norm(sum(norm(x, layer_norm) for x in teacher.ffn_outputs[1:]) / 3, mean_norm), rtol=1e-4, atol=1e-5)


def test_targets_are_fp32_without_gradient(teacher):
    half = EncoderOutput(teacher.tokens, tuple(x.bfloat16().requires_grad_() for x in teacher.layers), ())
    targets = TopKTargets(2, "end")(half)
    assert targets.dtype == torch.float32
    assert not targets.requires_grad


def test_instance_norm_leaves_padding_out():
    x = torch.randn(2, 7, 8)
    padding_mask = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    x[padding_mask] = 1e4
    normed = normalise(x, "instance", padding_mask)
    close(normed[0], normalise(x[:1], "instance", None)[0], rtol=1e-4, atol=1e-5)
    close(normed[1, :4], normalise(x[1:, :4], "instance", None)[0], rtol=1e-4, atol=1e-5)
    assert normed[padding_mask].abs().max() == 0


def test_errors(teacher):
    with pytest.raises(ValueError, match=r"targets.top_k is 5, but the teacher has only 4 blocks"):
        TopKTargets(5)(teacher)
    with pytest.raises(ValueError, match="at least 1"):
        TopKTargets(0)

"""A stack of blocks, with the norms and prenet blocks around it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2v.nn.block import Block, BlockOutput


@dataclass(frozen=True)
class TransformerOutput:
    x: Float[Tensor, "b t d"]
    """After the last norm, if there is one."""
    blocks: list[BlockOutput]
    """One entry a block, prenet blocks left out."""


class Transformer(nn.Module):
    """[input norm] -> prenet blocks -> blocks -> [output norm].

    Pre-norm stacks end with a norm, post-norm stacks begin with one: so it is in every published model, except that a
    pre-norm one that was fine-tuned on the mean of its tokens has no norm before the mean (BEiT's). Prenet blocks (2.0)
    are ordinary blocks that no target is taken from.

    Args:
        width: D.
        depth: L, blocks that targets can be taken from.
        num_heads: H.
        prenet_depth: Blocks before those.
        norm_first: Pre-norm or post-norm.
        output_norm: Whether a pre-norm stack ends with a norm.
        output_eps: Of the output norm, where it differs from ``eps`` (fairseq's 1.0 vision).
        drop_path: Stochastic depth of the last block; it grows linearly from 0 at the first of all blocks.
        layer_drop: Probability that a whole block is left out of a training step (LayerDrop, arXiv 1909.11556).
        checkpoint_activations: Recompute each block in the backward pass: less memory, about a third more time.
        mlp_ratio, eps, key_bias, layer_scale, dropout, attention_dropout, activation_dropout: See :class:`Block`.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        num_heads: int,
        *,
        norm_first: bool,
        prenet_depth: int = 0,
        mlp_ratio: float = 4.0,
        eps: float = 1e-6,
        output_norm: bool = True,
        output_eps: float | None = None,
        key_bias: bool = True,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        drop_path: float = 0.0,
        layer_drop: float = 0.0,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.layer_drop = layer_drop
        self.checkpoint_activations = checkpoint_activations
        rates = torch.linspace(0, drop_path, prenet_depth + depth, device="cpu").tolist()  # also if built on meta
        blocks = [
            Block(
                width,
                num_heads,
                norm_first=norm_first,
                mlp_ratio=mlp_ratio,
                eps=eps,
                key_bias=key_bias,
                layer_scale=layer_scale,
                dropout=dropout,
                attention_dropout=attention_dropout,
                activation_dropout=activation_dropout,
                drop_path=rate,
            )
            for rate in rates
        ]
        self.input_norm = nn.Identity() if norm_first else nn.LayerNorm(width, eps=eps)
        self.input_dropout = nn.Dropout(dropout)
        self.prenet = nn.ModuleList(blocks[:prenet_depth])
        self.blocks = nn.ModuleList(blocks[prenet_depth:])
        self.output_norm = (
            nn.LayerNorm(width, eps=eps if output_eps is None else output_eps)
            if norm_first and output_norm
            else nn.Identity()
        )

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        bias: Float[Tensor, "l #b #h t t"] | None = None,
        padding_mask: Bool[Tensor, "b t"] | None = None,
    ) -> TransformerOutput:
        """Encode. ``bias`` has one entry a block (prenet first), or one for all; padded keys are never attended to."""
        biases = self._biases(bias, padding_mask)
        x = self.input_dropout(self.input_norm(x))
        outputs = []
        left_out = self._blocks_to_leave_out()
        for block, block_bias, leave_out in zip([*self.prenet, *self.blocks], biases, left_out, strict=True):
            if leave_out:
                output = _left_out(block, x)
            elif self.checkpoint_activations and torch.is_grad_enabled():
                output = checkpoint(block, x, block_bias, use_reentrant=False)
            else:
                output = block(x, block_bias)
            x = output.end
            outputs.append(output)
        return TransformerOutput(self.output_norm(x), outputs[len(self.prenet) :])

    def _blocks_to_leave_out(self) -> list[bool]:
        depth = len(self.prenet) + len(self.blocks)
        if not self.training or self.layer_drop == 0:
            return [False] * depth
        leave_out = torch.rand(depth, device="cpu") < self.layer_drop
        if leave_out.all():  # one stays, or what only the blocks use (ALiBi's scale) would get no gradient
            leave_out[-1] = False
        return leave_out.tolist()

    def _biases(self, bias: Tensor | None, padding_mask: Tensor | None) -> list[Tensor | None]:
        depth = len(self.prenet) + len(self.blocks)
        if padding_mask is not None:
            hidden = torch.zeros(padding_mask.shape, device=padding_mask.device).masked_fill(padding_mask, -torch.inf)
            hidden = hidden[:, None, None, :]  # [B, 1, 1, T]
            bias = hidden[None] if bias is None else bias + hidden
        if bias is None:
            return [None] * depth
        return list(bias.expand(depth, *bias.shape[1:]))


def _left_out(block: nn.Module, x: Float[Tensor, "b t d"]) -> BlockOutput:
    """The input unchanged. The weights still get a gradient, of zero: plain DDP waits for one of every parameter."""
    nothing = torch.stack([parameter.sum() for parameter in block.parameters()]).sum() * 0
    return BlockOutput(ffn=torch.zeros_like(x), end=x + nothing.to(x.dtype))

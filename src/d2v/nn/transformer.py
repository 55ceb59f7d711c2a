"""The trunk: a stack of blocks that knows nothing of what its tokens came from."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2v.nn.block import Block, BlockOutput
from d2v.nn.initial_weights import init_weights
from d2v.nn.layer_norm import LayerNorm
from d2v.nn.remembered_arguments import remember_arguments


@dataclass(frozen=True)
class TransformerOutput:
    x: Float[Tensor, "b t d"]
    """After the last norm, if there is one."""
    blocks: list[BlockOutput]
    """One entry a block."""


class BlockStack(nn.ModuleList):
    """Blocks that are run one after the other.

    Args:
        blocks: In order.
        layer_drop: Probability that a whole block is left out of a training step (LayerDrop, arXiv 1909.11556).
        checkpoint_activations: Share of the blocks, evenly spread, that the backward pass computes again.
    """

    def __init__(self, blocks: Iterable[Block], layer_drop: float, checkpoint_activations: float) -> None:
        super().__init__(blocks)
        self.layer_drop = layer_drop
        depth = len(self)
        again = round(checkpoint_activations * depth)
        self.computed_again = [(number + 1) * again // depth > number * again // depth for number in range(depth)]

    def forward(
        self, x: Float[Tensor, "b t d"], bias: Float[Tensor, "l #b #h #t t"] | None = None
    ) -> tuple[Float[Tensor, "b t d"], list[BlockOutput]]:
        """What the last block gives, and what each gives; ``bias`` has one entry a block, or one for all."""
        outputs = []
        for number, leave_out in enumerate(self._blocks_to_leave_out()):
            block = self[number]
            block_bias = None
            if bias is not None:
                block_bias = bias[number if len(bias) > 1 else 0]
            if leave_out:
                output = _left_out(block, x)
            elif self.computed_again[number] and torch.is_grad_enabled():
                output = checkpoint(block, x, block_bias, use_reentrant=False)
            else:
                output = block(x, block_bias)
            x = output.end
            outputs.append(output)
        return x, outputs

    def _blocks_to_leave_out(self) -> list[bool]:
        depth = len(self)
        if not self.training or self.layer_drop == 0 or depth == 0:
            return [False] * depth
        leave_out = torch.rand(depth, device="cpu") < self.layer_drop
        if leave_out.all():  # one stays, or what only the blocks use (ALiBi's scale) would get no gradient
            leave_out[-1] = False
        return leave_out.tolist()


@final
@remember_arguments
class Transformer(nn.Module):
    """Blocks and, if they are pre-norm, a last norm.

    Pre-norm stacks end with a norm, post-norm stacks have one in front of them, which belongs to the front end: so it
    is in every published model, except that a pre-norm one that was fine-tuned on the mean of its tokens has no norm
    before the mean (BEiT's).

    Args:
        width: D.
        depth: L, blocks that targets can be taken from.
        num_heads: H.
        norm_first: Pre-norm (1.0 vision) or post-norm (all others as published).
        mlp_ratio: Hidden width of the feed-forward network over D.
        eps: Of the layer norms.
        output_norm: Whether pre-norm blocks are followed by a last norm.
        output_eps: Of that one, where it differs from ``eps`` (fairseq's 1.0 vision).
        key_bias: Whether keys have a bias; data2vec 1.0 vision has none.
        layer_scale: Initial LayerScale (1.0 vision), or null.
        dropout: Of the input and of both branches of a block.
        attention_dropout: Of the attention weights.
        activation_dropout: Inside the feed-forward networks.
        drop_path: Stochastic depth of the last block; it grows from 0 at the first block, prenet included.
        layer_drop: Probability that a whole block is left out of a training step.
        checkpoint_activations: Share of the blocks whose activations are computed again in the backward pass instead of
            being kept: 1, all of them, saves most memory and takes about a third more time; 0.5 every second block.
        weight_init: BERT's, or BEiT's (1.0 vision), which also divides what enters the residuals of block i by
            sqrt(2 i); a front end's tokens, patches and learned positions follow. See ``d2v.nn.initial_weights``.
    """

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        norm_first: bool = False,
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
        checkpoint_activations: float = 0.0,
        weight_init: Literal["bert", "beit"] = "bert",
    ) -> None:
        super().__init__()
        if not 0 <= checkpoint_activations <= 1:
            raise ValueError(f"checkpoint_activations is {checkpoint_activations}: it must lie between 0 and 1")
        self.width = width
        self.num_heads = num_heads
        self.norm_first = norm_first
        self.eps = eps
        self.dropout = dropout
        self.drop_path = drop_path
        self.layer_drop = layer_drop
        self.checkpoint_activations = checkpoint_activations
        self.weight_init = weight_init
        self._make_block = functools.partial(
            Block,
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
        )
        self.blocks = self.stack(depth)
        self.output_norm: nn.Module = nn.Identity()
        if norm_first and output_norm:
            self.output_norm = LayerNorm(width, eps=output_eps or eps)

    @property
    def depth(self) -> int:
        """L."""
        return len(self.blocks)

    def stack(self, depth: int) -> BlockStack:
        """New blocks like its own: what a front end may put before it (2.0's prenet)."""
        blocks = []
        for number in range(1, depth + 1):
            block = self._make_block()
            init_weights(block, self.weight_init)
            if self.weight_init == "beit":
                with torch.no_grad():  # BEiT's fix_init_weight
                    for name in ("attention.proj.weight", "mlp.2.weight"):
                        block.get_parameter(name).div_((2 * number) ** 0.5)
            blocks.append(block)
        return BlockStack(blocks, self.layer_drop, self.checkpoint_activations)

    def input_norm(self) -> nn.Module:
        """A new norm for what a front end hands in, where the blocks expect one (post-norm)."""
        return nn.Identity() if self.norm_first else LayerNorm(self.width, eps=self.eps)

    def forward(
        self, x: Float[Tensor, "b t d"], bias: Float[Tensor, "l #b #h #t t"] | None = None
    ) -> TransformerOutput:
        """Contextualise. ``bias`` has one entry a block, or one for all; -inf hides a key. It is as
        :func:`d2v.nn.block.attention_bias` makes it."""
        x, outputs = self.blocks(x, bias)
        return TransformerOutput(self.output_norm(x), outputs)


def _left_out(block: nn.Module, x: Float[Tensor, "b t d"]) -> BlockOutput:
    """The input unchanged. The weights still get a gradient, of zero: plain DDP waits for one of every parameter."""
    nothing = torch.stack([parameter.sum() for parameter in block.parameters()]).sum() * 0
    return BlockOutput(ffn=torch.zeros_like(x), end=x + nothing.to(x.dtype))

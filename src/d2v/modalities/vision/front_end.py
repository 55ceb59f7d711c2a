"""The vision Transformer of data2vec: patches in, contextualised patches out."""

from typing import Literal

import torch
from torch import nn

from d2v.model.encoder import Encoder
from d2v.model.masked_input import DropMasked, ReplaceMasked
from d2v.nn.feature_extractor import PatchEmbedding
from d2v.nn.positional import PositionTable, RelativePositionBias
from d2v.nn.transformer import Transformer


class VisionEncoder(Encoder):
    """An encoder of pictures [B, 3, H, W] of any height and width that the patch divides.

    Args:
        image_size: (height, width) in pixels that the position tables are made for, or one number for a square.
        patch_size: Side of a patch in pixels.
        width: D.
        depth: Blocks that targets can be taken from.
        num_heads: H.
        prenet_depth: Blocks before those (2.0).
        masked_input: "drop" masked tokens (2.0), or "replace" them by a learned embedding (1.0).
        positions: Fixed "sincos" (2.0), "learned" (with one for CLS), or null.
        relative_bias: Relative position bias, one table "shared" by all blocks (1.0), one "per_block", or null.
        norm_first: Pre-norm (1.0) or post-norm (2.0).
        num_cls: CLS tokens.
        mlp_ratio: Hidden width of the feed-forward network over D.
        eps: Of the layer norms.
        output_norm: Whether pre-norm blocks are followed by a last one; models that were fine-tuned on the mean of
            their tokens have none there, but one in the classifier.
        output_eps: Of the last one, where it differs.
        key_bias: Whether keys have a bias (2.0) or not (1.0).
        layer_scale: Initial LayerScale (1.0), or null.
        dropout: Of the input and of both branches of a block.
        attention_dropout: Of the attention weights.
        drop_path: Stochastic depth of the last block, growing from 0.
        checkpoint_activations: Save memory, spend about a third more time.
        in_channels: Channels of a picture.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        prenet_depth: int = 0,
        masked_input: Literal["drop", "replace"] = "drop",
        positions: Literal["sincos", "learned"] | None = "sincos",
        relative_bias: Literal["shared", "per_block"] | None = None,
        norm_first: bool = False,
        num_cls: int = 1,
        mlp_ratio: float = 4.0,
        eps: float = 1e-6,
        output_norm: bool = True,
        output_eps: float | None = None,
        key_bias: bool = True,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        checkpoint_activations: bool = False,
        in_channels: int = 3,
    ) -> None:
        init_args = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        height, columns_px = (image_size, image_size) if isinstance(image_size, int) else image_size
        if height % patch_size or columns_px % patch_size:
            raise ValueError(f"image_size {image_size} does not divide into patches of {patch_size} pixels")
        grid = (height // patch_size, columns_px // patch_size)
        tables = {"shared": 1, "per_block": prenet_depth + depth}
        super().__init__(
            feature_extractor=PatchEmbedding(patch_size, width, in_channels),
            transformer=Transformer(
                width,
                depth,
                num_heads,
                norm_first=norm_first,
                prenet_depth=prenet_depth,
                mlp_ratio=mlp_ratio,
                eps=eps,
                output_norm=output_norm,
                output_eps=output_eps,
                key_bias=key_bias,
                layer_scale=layer_scale,
                dropout=dropout,
                attention_dropout=attention_dropout,
                drop_path=drop_path,
                checkpoint_activations=checkpoint_activations,
            ),
            masked_input=DropMasked() if masked_input == "drop" else ReplaceMasked(width),
            positions=positions
            and PositionTable(
                grid, width, sincos=positions == "sincos", num_cls=num_cls if positions == "learned" else 0
            ),
            attention_bias=relative_bias and RelativePositionBias(grid, num_heads, tables[relative_bias]),
            num_cls=num_cls,
            width=width,
            recipe={"class_path": f"{type(self).__module__}.{type(self).__qualname__}", "init_args": init_args},
        )
        self._init_weights()

    @torch.no_grad()
    def _init_weights(self) -> None:
        """As published: BEiT's for pre-norm (1.0); BERT's, with MAE's patch embedding, for post-norm (2.0)."""
        pre_norm = self.recipe["init_args"]["norm_first"]
        for module in self.modules():
            if isinstance(module, nn.Linear):
                # BEiT cuts at 2 in absolute value, which is 100 deviations: a plain normal distribution.
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        kernel = self.get_parameter("feature_extractor.proj.weight")
        if pre_norm:
            nn.init.normal_(kernel, std=0.02)
            nn.init.zeros_(self.get_parameter("feature_extractor.proj.bias"))
            for i in range(len(self.transformer.blocks)):
                for last in ("attention.proj.weight", "mlp.2.weight"):  # BEiT's fix_init_weight
                    self.get_parameter(f"transformer.blocks.{i}.{last}").div_((2 * (i + 1)) ** 0.5)
        else:
            nn.init.xavier_uniform_(kernel.view(len(kernel), -1))
        if self.cls_token is not None:
            # fairseq's images draw the extra token from N(0, 1): `init_extra_token_zero: false`
            nn.init.normal_(self.cls_token, std=0.02 if pre_norm else 1.0)

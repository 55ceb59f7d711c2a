"""The speech Transformer of data2vec: 16 kHz waveforms in, a contextualised frame every 20 ms out."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from d2v.model.encoder import Encoder
from d2v.model.masked_input import DropMasked, ReplaceMasked
from d2v.nn.feature_extractor import WAV2VEC, ConvFeatureExtractor
from d2v.nn.positional import ALiBi, ConvPositions
from d2v.nn.transformer import Transformer


class SpeechEncoder(Encoder):
    """An encoder of waveforms [B, samples] at 16 kHz, each with zero mean and unit variance, of any length.

    Args:
        width: D.
        depth: Blocks that targets can be taken from.
        num_heads: H.
        prenet_depth: Blocks before those (2.0 Large).
        masked_input: "drop" masked frames (2.0), or "replace" them by a learned embedding (1.0).
        extractor: (channels, kernel, stride) of each convolution of the feature extractor.
        position_layers: Convolutions of the positional encoding.
        position_kernel: Frames of each of its kernels.
        position_groups: Groups of channels of each.
        alibi: Whether attention falls with distance (2.0).
        norm_first: Pre-norm, or post-norm (as published).
        mlp_ratio: Hidden width of the feed-forward network over D.
        eps: Of the layer norms.
        dropout: Of the input and of both branches of a block.
        attention_dropout: Of the attention weights.
        activation_dropout: Inside the feed-forward networks.
        layer_drop: Probability that a whole block is left out of a training step.
        drop_path: Stochastic depth of the last block, growing from 0.
        checkpoint_activations: Save memory, spend about a third more time.
    """

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        prenet_depth: int = 0,
        masked_input: Literal["drop", "replace"] = "drop",
        extractor: Sequence[Sequence[int]] = WAV2VEC,
        position_layers: int = 5,
        position_kernel: int = 19,
        position_groups: int = 16,
        alibi: bool = True,
        norm_first: bool = False,
        mlp_ratio: float = 4.0,
        eps: float = 1e-5,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        layer_drop: float = 0.0,
        drop_path: float = 0.0,
        checkpoint_activations: bool = False,
    ) -> None:
        init_args = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        init_args["extractor"] = [list(layer) for layer in extractor]
        super().__init__(
            feature_extractor=ConvFeatureExtractor(width, extractor),
            transformer=Transformer(
                width,
                depth,
                num_heads,
                norm_first=norm_first,
                prenet_depth=prenet_depth,
                mlp_ratio=mlp_ratio,
                eps=eps,
                dropout=dropout,
                attention_dropout=attention_dropout,
                activation_dropout=activation_dropout,
                layer_drop=layer_drop,
                drop_path=drop_path,
                checkpoint_activations=checkpoint_activations,
            ),
            masked_input=DropMasked() if masked_input == "drop" else ReplaceMasked(width),
            positions=ConvPositions(width, position_layers, position_kernel, position_groups),
            attention_bias=ALiBi(num_heads) if alibi else None,
            width=width,
            recipe={"class_path": f"{type(self).__module__}.{type(self).__qualname__}", "init_args": init_args},
        )
        self._init_weights()

    @torch.no_grad()
    def _init_weights(self) -> None:
        """As published: BERT's for the Transformer and, in 2.0, for the projection of the frames too."""
        modules = self.transformer if isinstance(self.masked_input, ReplaceMasked) else self
        for module in modules.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        if isinstance(self.masked_input, ReplaceMasked):
            nn.init.uniform_(self.masked_input.mask_token)  # fairseq's mask_emb

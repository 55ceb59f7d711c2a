"""The front end of speech: 16 kHz waveforms to a frame every 20 ms."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from d2v.model.example_inputs import ExampleInputs
from d2v.model.front_end import FrontEnd
from d2v.model.masked_input import DropMasked, MaskedInput, ReplaceMasked
from d2v.nn.feature_extractor import WAV2VEC, ConvFeatureExtractor
from d2v.nn.initial_weights import WeightInit, init_weights
from d2v.nn.positional import ALiBi, ConvPositions
from d2v.nn.transformer import Transformer


class SpeechFrontEnd(FrontEnd):
    """Reads waveforms [B, samples] at 16 kHz, each with zero mean and unit variance, of any length.

    Args:
        trunk: The blocks behind it.
        extractor: (channels, kernel, stride) of each convolution of the feature extractor.
        masked_input: "drop" masked frames (2.0), or "replace" them by a learned embedding (1.0).
        position_layers: Convolutions of the positional encoding.
        position_kernel: Frames of each of its kernels.
        position_groups: Groups of channels of each.
        alibi: Whether attention falls with distance (2.0).
        prenet_depth: Blocks before those that targets can be taken from (2.0 Large).
        num_cls: Tokens before the frames, each of which stands for the whole clip (emotion2vec's ten).
        projection_init: First weights of the projection of frames to the trunk's width.
    """

    def __init__(
        self,
        trunk: Transformer,
        extractor: Sequence[Sequence[int]] = WAV2VEC,
        masked_input: Literal["drop", "replace"] = "drop",
        position_layers: int = 5,
        position_kernel: int = 19,
        position_groups: int = 16,
        alibi: bool = True,
        prenet_depth: int = 0,
        num_cls: int = 0,
        projection_init: WeightInit = "torch",
    ) -> None:
        frames = ConvFeatureExtractor(trunk.width, extractor)
        init_weights(frames.proj, projection_init)
        hidden: MaskedInput = DropMasked()
        if masked_input == "replace":
            hidden = ReplaceMasked(trunk.width)
            nn.init.uniform_(hidden.mask_token)  # fairseq's mask_emb
        super().__init__(
            trunk,
            frames,
            hidden,
            positions=ConvPositions(trunk.width, position_layers, position_kernel, position_groups),
            attention_bias=ALiBi(trunk.num_heads) if alibi else None,
            num_cls=num_cls,
            cls_std=1.0,
            prenet_depth=prenet_depth,
        )
        if self.cls_token is not None:
            nn.init.zeros_(self.cls_token[0])  # fairseq's sound: `init_extra_token_zero`, which sets the first alone
        self.stride, self.receptive_field = frames.stride, frames.receptive_field

    def example_inputs(self) -> ExampleInputs:
        return ExampleInputs.padded(
            "float32 [B, L], 16 kHz sound, each clip with mean 0 and variance 1, L at least "
            f"{self.receptive_field + self.stride}",
            torch.randn,
            length=lambda size: self.receptive_field + (9 + 8 * size) * self.stride + 3 * size + 1,
            kept=lambda length: length - 4 * self.stride,
        )

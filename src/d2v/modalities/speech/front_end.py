"""The front end of speech: 16 kHz waveforms to a frame every 20 ms, or their cepstra to one every 40 ms."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from d2v.data.filter_banks import SHIFT, WINDOW, levels
from d2v.model.example_inputs import ExampleInputs
from d2v.model.front_end import FrontEnd
from d2v.model.masked_input import DropMasked, MaskedInput, ReplaceMasked
from d2v.model.shown_inputs import ShownInputs
from d2v.nn.feature_extractor import WAV2VEC, ConvFeatureExtractor
from d2v.nn.initial_weights import WeightInit, init_weights
from d2v.nn.positional import ALiBi, ConvPositions
from d2v.nn.transformer import Transformer

_WINDOW, _FREQUENCIES = 400, 126
"""Of the spectrograms that are shown: samples of a window, and how many frequencies, 40 Hz apart."""


class SpeechFrontEnd(FrontEnd):
    """Reads waveforms [B, samples] at 16 kHz, each with zero mean and unit variance, of any length; or cepstra of them.

    Args:
        trunk: The blocks behind it.
        in_channels: 1, or more, of cepstra [B, frames, in_channels], a frame every 10 ms: the first of forty
            (TeleSpeech: all).
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
        in_channels: int = 1,
    ) -> None:
        frames = ConvFeatureExtractor(trunk.width, extractor, in_channels)
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
        self.in_channels = in_channels
        self.stride, self.receptive_field = frames.stride, frames.receptive_field
        """Samples of sound from one frame to the next, and those that a frame is computed from."""
        if in_channels > 1:
            self.stride, self.receptive_field = SHIFT * frames.stride, WINDOW + SHIFT * (frames.receptive_field - 1)

    def num_tokens(self, num_values: Int64[np.ndarray, "b"]) -> Int64[np.ndarray, "b"]:
        """Tokens of clips of so many samples of sound."""
        return np.maximum((num_values - self.receptive_field) // self.stride + 1, 0)

    def show(self, inputs: Tensor, assets: Mapping[str, str]) -> ShownInputs:
        """Spectrograms of the waveforms up to 5 kHz, as far as frames reach; or the cepstra. Time goes to the right."""
        if self.in_channels > 1:
            return ShownInputs(levels(inputs.transpose(1, 2).flip(1))[:, None])
        frames = (inputs.shape[1] - self.receptive_field) // self.stride + 1
        waves = inputs[:, : frames * self.stride].float()
        window = torch.hann_window(_WINDOW, device=waves.device)
        spectra = torch.stft(waves, _WINDOW, SHIFT, window=window, return_complex=True).abs()[:, :_FREQUENCIES]
        return ShownInputs(levels((spectra + 1e-2).log().flip(1))[:, None])

    def example_inputs(self) -> ExampleInputs:
        frames: Any = self.feature_extractor
        stride, least = frames.stride, frames.receptive_field
        described = "[B, L], 16 kHz sound, each clip with mean 0 and variance 1"
        shape: tuple[int, ...] = ()
        if self.in_channels > 1:
            described, shape = f"[B, L, {self.in_channels}], normalised cepstra every 10 ms", (self.in_channels,)
        return ExampleInputs.padded(
            f"float32 {described}, L at least {least + stride}",
            lambda batch, length: torch.randn(batch, length, *shape),
            length=lambda size: least + (9 + 8 * size) * stride + 3 * size + 1,
            kept=lambda length: length - 4 * stride,
        )

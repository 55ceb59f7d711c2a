"""From raw input to one vector a token."""

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from d2v.errors import UserError
from d2v.nn.layer_norm import LayerNorm
from d2v.types import TokenSequence


class PatchEmbedding(nn.Module):
    """Cuts pictures or spectrograms into square patches and projects each (ViT, section 3.1).

    The first weights are MAE's, which those of EAT and of fairseq's pictures are too.

    Args:
        patch_size: Side of a patch in pixels.
        width: D.
        in_channels: Channels of the input.
    """

    def __init__(self, patch_size: int, width: int, in_channels: int = 3) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)
        nn.init.xavier_uniform_(self.proj.weight.detach().view(width, -1))

    def forward(
        self, pixels: Float[Tensor, "b c h w"], padding_mask: Bool[Tensor, "b _"] | None = None
    ) -> TokenSequence:
        """Embed pictures of any height and width that the patch divides.

        Raises:
            UserError: A side is not a multiple of the patch.
            ValueError: Pictures come with a padding mask.
        """
        height, width = pixels.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise UserError(
                f"inputs of {height} x {width} pixels do not divide into patches of {self.patch_size}: set "
                f"data.image_size, or data.frames of spectrograms, to multiples of {self.patch_size}"
            )
        if padding_mask is not None:
            raise ValueError("pictures of a batch have one size: there is nothing that a padding mask could mean")
        x = self.proj(pixels)  # [B, D, h, w]
        return TokenSequence(x.flatten(2).transpose(1, 2), grid=(x.shape[2], x.shape[3]))


class TokenEmbedding(nn.Module):
    """A learned vector for each type of a vocabulary.

    Args:
        vocab_size: Number of types.
        width: D.
    """

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.stride = self.receptive_field = 1
        """As those of :class:`ConvFeatureExtractor`, in token ids."""

    def forward(self, ids: Int64[Tensor, "b n"], padding_mask: Bool[Tensor, "b n"] | None = None) -> TokenSequence:
        """Look up token ids; those of padding do not matter."""
        vocabulary = self.embedding.weight
        return TokenSequence(self.embedding(ids), (ids.shape[1],), padding_mask, vocabulary)


Count = TypeVar("Count", int, Tensor)

WAV2VEC = ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)
"""(channels, kernel, stride) of the layers of wav2vec 2.0 and data2vec: 16 kHz to 50 Hz, 25 ms a frame."""


class ConvFeatureExtractor(nn.Module):
    """Waveforms to frames by a stack of convolutions, each with a layer norm and GELU; then a norm and a projection
    (wav2vec 2.0, section 2; fairseq ``ConvFeatureExtractionModel`` in mode ``layer_norm``).

    Nothing is padded, so frame i depends on samples ``[i * stride, i * stride + receptive_field)`` alone.

    Args:
        width: D.
        layers: (channels, kernel, stride) of each convolution.
        in_channels: Values of each sample: 1, of waveforms, or more, such as cepstra (TeleSpeech).
    """

    def __init__(self, width: int, layers: Sequence[Sequence[int]] = WAV2VEC, in_channels: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.stride = 1
        """Samples from one frame to the next."""
        self.receptive_field = 1
        """Samples that a frame sees."""
        if not layers:
            raise ValueError("extractor has no convolution: give (channels, kernel, stride) of one or more")
        for channels, kernel, stride in layers:
            self.layers.append(_ConvLayer(in_channels, int(channels), int(kernel), int(stride)))
            in_channels = int(channels)
            self.receptive_field += (int(kernel) - 1) * self.stride
            self.stride *= int(stride)
        self.norm = LayerNorm(in_channels)
        self.proj = nn.Linear(in_channels, width)

    def num_frames(self, num_samples: Count) -> Count:
        """Frames of clips of so many samples; 0 for those that are too short."""
        frames = (num_samples - self.receptive_field) // self.stride + 1
        return max(frames, 0) if isinstance(frames, int) else frames.clamp(min=0)

    def forward(
        self, waveform: Float[Tensor, "b l *c"], padding_mask: Bool[Tensor, "b l"] | None = None
    ) -> TokenSequence:
        """Frames of clips of one length, or padded to it at their ends; several values of a sample are its last dim.

        Raises:
            ValueError: The batch is shorter than one frame.
        """
        if waveform.shape[1] < self.receptive_field:
            raise ValueError(
                f"clips of {waveform.shape[1]} samples are shorter than one frame, which needs {self.receptive_field}"
            )
        x = waveform
        if x.ndim == 2:
            x = x[:, :, None]  # [B, L, 1]; channels stay last, as the norms want them
        for layer in self.layers:
            x = layer(x)
        x = self.proj(self.norm(x))  # [B, N, D]
        frames_padding = None
        if padding_mask is not None:
            frames = self.num_frames((~padding_mask).sum(dim=1))
            frames_padding = torch.arange(x.shape[1], device=x.device) >= frames[:, None]
        return TokenSequence(x, grid=(x.shape[1],), padding_mask=frames_padding)


class _ConvLayer(nn.Module):
    """Convolution without bias, layer norm over the channels, GELU; channels last.

    The convolution is a product or two of matrices: ``conv1d`` would need transposes before and after the norm, and a
    GELU on transposed memory (benchmarks/README.md, "The feature extractor").
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, channels, kernel, stride, bias=False)
        self.norm = LayerNorm(channels)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, x: Float[Tensor, "b l c"]) -> Float[Tensor, "b n e"]:
        return F.gelu(self.norm(self._convolve(x)))

    def _convolve(self, x: Float[Tensor, "b l c"]) -> Float[Tensor, "b n e"]:
        (kernel,), (stride,), weight = self.conv.kernel_size, self.conv.stride, self.conv.weight
        if torch.compiler.is_exporting():  # ONNX knows convolutions, and not products of any number of rows
            return self.conv(x.transpose(1, 2)).transpose(1, 2)
        num_windows = (x.shape[1] - kernel) // stride + 1
        if x.shape[2] == 1 or num_windows <= len(weight):
            # Copies the windows. That is little beside the output of a single channel; and on short clips it is less
            # than the weights of a product over clips, which autocast copies for each.
            return F.linear(x.unfold(1, kernel, stride).flatten(2), weight.flatten(1))
        # Rows of `stride` inputs side by side are a view. A window is such a row, or several, and what is left over.
        rows = x[:, : x.shape[1] // stride * stride].unflatten(1, (-1, stride)).flatten(2)  # [B, L // stride, stride*C]
        taps = weight.permute(2, 1, 0).contiguous()  # [kernel, C, E]
        whole, last = kernel // stride, (num_windows - 1) * stride + 1
        parts = []
        for i in range(whole):
            parts.append((rows[:, i : i + num_windows], taps[i * stride : (i + 1) * stride].flatten(0, 1)))
        for i in range(whole * stride, kernel):
            parts.append((x[:, i : i + last : stride], taps[i]))
        out: Tensor | None = None
        for inputs, weights in parts:
            weights = weights.expand(len(x), -1, -1)
            out = torch.bmm(inputs, weights) if out is None else torch.baddbmm(out, inputs, weights)
        assert out is not None  # a kernel has a tap
        return out

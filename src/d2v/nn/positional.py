"""Absolute positional encodings, and biases of attention by relative position."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from d2v.errors import UserError
from d2v.nn.grouped_convolution import GroupedConvolution
from d2v.nn.initial_weights import draw
from d2v.nn.norm_gelu import norm_gelu
from d2v.types import TokenSequence


class PositionalEncoding(nn.Module):
    """Adds where a token stands to what it is.

    ``mixes_tokens`` declares whether a position is computed from its neighbours' content (a convolution). If so,
    masked tokens must be hidden before it, or their content leaks into visible ones.
    """

    mixes_tokens: bool = False

    @abstractmethod
    def forward(self, sequence: TokenSequence) -> Float[Tensor, "#b n d"]:
        """The encoding to add to each token."""

    def encode_cls(self, cls: Float[Tensor, "b c d"]) -> Float[Tensor, "b c d"]:
        """CLS tokens with their own positions, where the encoding has any for them."""
        return cls


class PositionTable(PositionalEncoding):
    """One vector a position of a 2-d grid, interpolated when the grid has another size, or cut when it has fewer rows.

    Args:
        grid: (rows, columns) that the table is made for.
        width: D.
        sincos: Fixed sine-cosine values (MAE, 2.0 vision), or learned ones (BEiT, ViT).
        num_cls: CLS tokens that have a learned position too (BEiT).
        cut: Whether a grid of fewer rows has the first rows of the table as they are (EAT), and none has more.
    """

    def __init__(self, grid: tuple[int, int], width: int, *, sincos: bool, num_cls: int = 0, cut: bool = False) -> None:
        super().__init__()
        self.grid = grid
        self.cut = cut
        if sincos:
            values = sincos_table_2d(grid, width)
        else:
            values = draw(torch.empty(grid[0] * grid[1], width))
        # A frozen parameter and not a buffer, as in the official code: it is in every checkpoint, and may be another's.
        self.table = nn.Parameter(values, requires_grad=not sincos)
        self.cls_table: nn.Parameter | None = None
        if num_cls:
            self.cls_table = nn.Parameter(draw(torch.empty(num_cls, width)))

    def forward(self, sequence: TokenSequence) -> Float[Tensor, "1 n d"]:
        return self.table_for(sequence.grid)[None]

    def table_for(self, grid: tuple[int, ...]) -> Float[Tensor, "n d"]:
        """The table for a grid of another size (BEiT's and MAE's interpolation; smoothed where it shrinks)."""
        if self.cut:
            rows, columns = grid
            if columns != self.grid[1] or rows > self.grid[0]:
                raise UserError(
                    f"a spectrogram of {rows} x {columns} patches, and the encoder has positions for {self.grid[0]} x "
                    f"{self.grid[1]}: give shorter clips with as many mel bins as the encoder was made for"
                )
            return self.table[: rows * columns]
        if not torch.compiler.is_exporting() and grid == self.grid:
            return self.table
        table = self.table.T.reshape(1, -1, *self.grid)  # [1, D, rows, columns]
        table = F.interpolate(table.float(), size=grid, mode="bicubic", align_corners=False, antialias=True)
        return table[0].flatten(1).T.to(self.table.dtype)

    def encode_cls(self, cls: Float[Tensor, "b c d"]) -> Float[Tensor, "b c d"]:
        if self.cls_table is None:
            return cls
        return cls + self.cls_table


class LearnedPositions(PositionalEncoding):
    """One learned vector a position of a sequence (BERT, 1.0 and 2.0 text).

    Args:
        max_positions: Longest sequence.
        width: D.
    """

    def __init__(self, max_positions: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(draw(torch.empty(max_positions, width)))

    def forward(self, sequence: TokenSequence) -> Float[Tensor, "1 n d"]:
        length = sequence.grid[0]
        if length > len(self.table):
            raise UserError(
                f"a sequence of {length} tokens, and the encoder has {len(self.table)} positions: set data.block_size "
                f"or data.max_length to at most {len(self.table)}, or train an encoder with a larger max_positions"
            )
        return self.table[None, :length]


class ConvPositions(PositionalEncoding):
    """Positions of a sequence from a stack of convolutions over it (1.0, section 4.2; fairseq ``make_conv_pos``).

    Each layer is a grouped convolution, a layer norm without parameters and GELU. Before each, padding is set to zero,
    which is what lies beyond the end of a clip that is alone. fairseq does so before the first layer at most, so that
    padding changes the last frames of a clip there.

    Args:
        width: D.
        num_layers: Convolutions.
        kernel_size: Frames of a kernel.
        groups: Groups of channels.
    """

    mixes_tokens = True

    def __init__(self, width: int, num_layers: int = 5, kernel_size: int = 19, groups: int = 16) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"position_kernel must be odd, so that a clip keeps its length, not {kernel_size}")
        self.layers = nn.ModuleList(
            GroupedConvolution(width, width, kernel_size, groups, dimensions=1) for _ in range(num_layers)
        )

    def forward(self, sequence: TokenSequence) -> Float[Tensor, "b n d"]:
        x = sequence.tokens
        for conv in self.layers:
            if sequence.padding_mask is not None:
                x = x.masked_fill(sequence.padding_mask[..., None], 0)
            x = norm_gelu(conv(x))
        return x


def sincos_table_2d(grid: tuple[int, int], width: int) -> Float[Tensor, "n d"]:
    """Fixed 2-d positions: the first half of the channels encodes the column, the second half the row.

    Frequencies 10000^(-i / (D/4)), sines before cosines (MAE's ``get_2d_sincos_pos_embed``, which puts the column
    first). Computed in fp64, as there.
    """
    if width % 4:
        raise ValueError(f"2-d sine-cosine positions need a width that 4 divides, not {width}")
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows = torch.arange(grid[0], dtype=torch.float64).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], dtype=torch.float64).repeat(grid[0])
    row_angles, column_angles = rows[:, None] * frequencies, columns[:, None] * frequencies
    parts = [column_angles.sin(), column_angles.cos(), row_angles.sin(), row_angles.cos()]
    return torch.cat(parts, dim=1).float()


class AttentionBias(nn.Module):
    """A bias of the attention scores that depends on where two tokens stand."""

    @abstractmethod
    def forward(
        self, grid: tuple[int, ...], num_cls: int, visible_index: Int64[Tensor, "r v"] | None
    ) -> Float[Tensor, "l #r #h t t"]:
        """Bias of each block (L = 1: all blocks share it) for the visible tokens, CLS first; None: all are visible."""


class RelativePositionBias(AttentionBias):
    """A learned table over the offset of two patches (BEiT, Swin), with three more entries for CLS.

    Args:
        grid: (rows, columns) that the table is made for; at another size it is interpolated.
        num_heads: H.
        num_tables: 1: all blocks share one table (1.0 vision); else the number of blocks.
    """

    def __init__(self, grid: tuple[int, int], num_heads: int, num_tables: int = 1) -> None:
        super().__init__()
        self.grid = grid
        rows, columns = grid
        # [L, offsets + (CLS to patch, patch to CLS, CLS to CLS), H]
        self.table = nn.Parameter(torch.zeros(num_tables, (2 * rows - 1) * (2 * columns - 1) + 3, num_heads))

    def forward(
        self, grid: tuple[int, ...], num_cls: int, visible_index: Int64[Tensor, "r v"] | None
    ) -> Float[Tensor, "l #r h t t"]:
        rows, columns = grid
        index = relative_position_index((rows, columns), num_cls, self.table.device)[None]  # [1, T, T]
        if visible_index is not None:
            cls = torch.arange(num_cls, device=index.device).expand(len(visible_index), -1)
            kept = torch.cat([cls, visible_index + num_cls], dim=1)  # [R, C + V]
            index = index[0][kept[:, :, None], kept[:, None, :]]
        return self.table_for((rows, columns))[:, index].movedim(-1, 2)  # [L, R, T, T, H] -> [L, R, H, T, T]

    def table_for(self, grid: tuple[int, int]) -> Float[Tensor, "l o h"]:
        """The table for pictures of another size: offsets are stretched with the picture."""
        if not torch.compiler.is_exporting() and grid == self.grid:
            return self.table
        offsets, cls = self.table[:, :-3], self.table[:, -3:]
        offsets = offsets.transpose(1, 2).unflatten(2, _num_offsets(self.grid))  # [L, H, 2 rows - 1, 2 columns - 1]
        offsets = F.interpolate(offsets, size=_num_offsets(grid), mode="bicubic", align_corners=False)
        return torch.cat([offsets.flatten(2).transpose(1, 2), cls], dim=1)


def _num_offsets(grid: tuple[int, int]) -> tuple[int, int]:
    return 2 * grid[0] - 1, 2 * grid[1] - 1


def relative_position_index(grid: tuple[int, int], num_cls: int, device: torch.device) -> Int64[Tensor, "t t"]:
    """Entry of the table for each pair of tokens (query, key), CLS first; BEiT's layout."""
    rows, columns = grid
    num_offsets = (2 * rows - 1) * (2 * columns - 1)
    # By a grid and not by division, which the ONNX exporter cannot write for a picture of any size.
    sides = torch.arange(rows, device=device), torch.arange(columns, device=device)
    grid_rows, grid_columns = torch.meshgrid(*sides, indexing="ij")
    row, column = grid_rows.flatten(), grid_columns.flatten()
    patches = (row[:, None] - row[None] + rows - 1) * (2 * columns - 1) + (column[:, None] - column[None] + columns - 1)
    index = F.pad(patches, (num_cls, 0, num_cls, 0))
    index[:num_cls] = num_offsets
    index[:, :num_cls] = num_offsets + 1
    index[:num_cls, :num_cls] = num_offsets + 2
    return index


class ALiBi(AttentionBias):
    """Attention falls linearly with the distance of two frames, at a fixed slope a head (ALiBi, arXiv 2108.12409).

    data2vec 2.0 speech uses it in both directions and learns a factor for each head, which is never negative (fairseq
    ``get_alibi``, ``learned_alibi_scale_per_head``).

    Args:
        num_heads: H.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_heads))

    def forward(
        self, grid: tuple[int, ...], num_cls: int, visible_index: Int64[Tensor, "r v"] | None
    ) -> Float[Tensor, "1 #r h t t"]:
        device = self.scale.device
        position = torch.arange(grid[0], device=device)[None] if visible_index is None else visible_index
        distance = (position[:, :, None] - position[:, None, :]).abs().float()  # [R, T, T]
        factor = alibi_slopes(len(self.scale), device) * self.scale.clamp(min=0)
        bias = -distance[None, :, None] * factor[:, None, None]  # [1, R, H, N, N]
        return F.pad(bias, (num_cls, 0, num_cls, 0))  # CLS tokens are far from nothing (emotion2vec)


def alibi_slopes(num_heads: int, device: torch.device) -> Float[Tensor, "h"]:
    """Slope of each head: 2^(-8/H), 2^(-16/H), ... if H is a power of two.

    Else those of the next lower power of two, followed by every other one of the next higher (the authors' code).
    Computed on the device, so that nothing waits for a copy to it.
    """
    power = 2 ** (num_heads.bit_length() - 1)
    exponents = torch.arange(1, power + 1, device=device) * (8 / power)
    between = torch.arange(num_heads - power, device=device) * (8 / power) + 4 / power
    return torch.exp2(-torch.cat([exponents, between]))

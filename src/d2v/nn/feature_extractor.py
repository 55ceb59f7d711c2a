"""From raw input to one vector a token."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from d2v.errors import UserError
from d2v.types import TokenSequence


class PatchEmbedding(nn.Module):
    """Cuts pictures into square patches and projects each (ViT, section 3.1).

    Args:
        patch_size: Side of a patch in pixels.
        width: D.
        in_channels: Channels of the input.
    """

    def __init__(self, patch_size: int, width: int, in_channels: int = 3) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)

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
                f"pictures of {height} x {width} pixels do not divide into patches of {self.patch_size}: set "
                f"data.image_size to multiples of {self.patch_size}"
            )
        if padding_mask is not None:
            raise ValueError("pictures of a batch have one size: there is nothing that a padding mask could mean")
        x = self.proj(pixels)  # [B, D, h, w]
        return TokenSequence(x.flatten(2).transpose(1, 2), grid=(x.shape[2], x.shape[3]))

"""What the student sees of a masked input: the one difference between 1.0 and 2.0 inside the encoder."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from d2v.types import Mask


class MaskedInput(nn.Module):
    """Two steps, with the positions added between them: hide the masked tokens' content, then select who goes on."""

    @abstractmethod
    def hide(self, tokens: Float[Tensor, "b n d"], mask: Mask, positions_mix: bool) -> Float[Tensor, "_ n d"]:
        """Tokens without the masked ones' content, as [R, N, D]; still [B, N, D] if nothing had to be hidden."""

    @abstractmethod
    def visible_index(self, mask: Mask) -> Int64[Tensor, "r v"] | None:
        """Positions that go on into the Transformer; None: all."""


class ReplaceMasked(MaskedInput):
    """All positions go on; masked ones carry a learned embedding (1.0, section 3.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))

    def hide(self, tokens: Float[Tensor, "b n d"], mask: Mask, positions_mix: bool) -> Float[Tensor, "r n d"]:
        tokens = tokens.repeat_interleave(mask.num_masks, dim=0)
        return torch.where(mask.masked[..., None], self.mask_token.to(tokens.dtype), tokens)

    def visible_index(self, mask: Mask) -> None:
        return None


class DropMasked(MaskedInput):
    """Only visible tokens go on (2.0, section 3.2)."""

    def hide(self, tokens: Float[Tensor, "b n d"], mask: Mask, positions_mix: bool) -> Float[Tensor, "_ n d"]:
        if not positions_mix:  # the masked ones are dropped before anything looks at their content
            return tokens
        return tokens.repeat_interleave(mask.num_masks, dim=0).masked_fill(mask.masked[..., None], 0)

    def visible_index(self, mask: Mask) -> Int64[Tensor, "r v"]:
        return mask.visible_index


def gather_tokens(tokens: Float[Tensor, "b n d"], index: Int64[Tensor, "r k"]) -> Float[Tensor, "r k d"]:
    """Pick tokens of each row; rows of ``index`` that share a sample (R = B*M) read it without a copy of it."""
    batch, num_tokens, width = tokens.shape
    sample = torch.arange(batch, device=index.device).repeat_interleave(index.shape[0] // batch)
    # As an embedding lookup, because its backward pass is deterministic on a GPU and that of indexing is not.
    return F.embedding(index + sample[:, None] * num_tokens, tokens.reshape(-1, width))

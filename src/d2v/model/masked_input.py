"""What the student sees of a masked input: the one difference between 1.0 and 2.0 inside the encoder."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from d2v.model.randomness import keyed_uniform
from d2v.nn.initial_weights import draw
from d2v.types import Mask, TokenSequence


class MaskedInput(nn.Module):
    """Two steps, with the positions added between them: hide the masked tokens' content, then select who goes on."""

    @abstractmethod
    def hide(self, sequence: TokenSequence, mask: Mask, positions_mix: bool) -> Float[Tensor, "_ n d"]:
        """Tokens without the masked ones' content, as [R, N, D]; still [B, N, D] if nothing had to be hidden."""

    @abstractmethod
    def visible_index(self, mask: Mask) -> Int64[Tensor, "r v"] | None:
        """Positions that go on into the Transformer; None: all."""


class ReplaceMasked(MaskedInput):
    """All positions go on; masked ones carry a learned embedding (1.0, section 3.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(draw(torch.empty(width)))

    def hide(self, sequence: TokenSequence, mask: Mask, positions_mix: bool) -> Float[Tensor, "r n d"]:
        tokens = sequence.tokens.repeat_interleave(mask.num_masks, dim=0)
        return torch.where(mask.masked[..., None], self.mask_token.to(tokens.dtype), tokens)

    def visible_index(self, mask: Mask) -> None:
        return None


class ReplaceTokens(MaskedInput):
    """All positions go on; masked ones carry another type of the vocabulary, mostly ``<mask>`` (1.0 text; BERT, 3.1).

    Which it is depends on the mask's keys, like the mask itself.

    Args:
        mask_id: Id of ``<mask>``, the last of the vocabulary.
        random: Share of the masked tokens that become any type instead, the special ones left out.
        unchanged: Share of the masked tokens that stay as they are.
    """

    NUM_SPECIAL = 4  # fairseq's vocabularies begin with <s> <pad> </s> <unk>

    def __init__(self, mask_id: int, random: float = 0.0, unchanged: float = 0.0) -> None:
        super().__init__()
        if min(random, unchanged) < 0 or random + unchanged > 1:
            raise ValueError(f"random {random} and unchanged {unchanged} must be shares of one whole")
        self.mask_id = mask_id
        self.random = random
        self.unchanged = unchanged

    def hide(self, sequence: TokenSequence, mask: Mask, positions_mix: bool) -> Float[Tensor, "r n d"]:
        if sequence.vocabulary is None:
            raise ValueError("ReplaceTokens needs tokens of a vocabulary; for others there is ReplaceMasked")
        tokens = sequence.tokens.repeat_interleave(mask.num_masks, dim=0)
        replaced, by = mask.masked, sequence.vocabulary[self.mask_id].to(tokens.dtype)
        if self.random + self.unchanged > 0:
            if mask.keys is None:
                raise ValueError("random and unchanged tokens are drawn by the keys of a mask, and this one has none")
            fate, choice = (keyed_uniform(mask.keys, tokens.shape[1], stream) for stream in (3, 4))
            types = self.NUM_SPECIAL + (choice * (self.mask_id - self.NUM_SPECIAL)).long()
            by = torch.where(
                (fate < self.random)[..., None], F.embedding(types, sequence.vocabulary).to(tokens.dtype), by
            )
            replaced = replaced & (fate < 1 - self.unchanged)
        return torch.where(replaced[..., None], by, tokens)

    def visible_index(self, mask: Mask) -> None:
        return None


class DropMasked(MaskedInput):
    """Only visible tokens go on (2.0, section 3.2)."""

    def hide(self, sequence: TokenSequence, mask: Mask, positions_mix: bool) -> Float[Tensor, "_ n d"]:
        tokens = sequence.tokens
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

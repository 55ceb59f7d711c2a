"""Heads of fine-tuned models, in training, import and export alike: scores of an input, or of each of its tokens."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from d2v.nn.dropout import Dropout
from d2v.nn.remembered_arguments import remember_arguments

HeadKind = Literal["linear", "tanh"]


@remember_arguments
class ClassifierHead(nn.Module):
    """[LayerNorm], dropout, one linear layer.

    Args:
        width: D.
        num_classes: C.
        norm: Whether pooled features are normalised first.
        dropout: Of what the linear layer reads.
        eps: Of the norm.
    """

    def __init__(self, width: int, num_classes: int, norm: bool, dropout: float = 0.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps) if norm else nn.Identity()
        self.dropout = Dropout(dropout)
        self.proj = nn.Linear(width, num_classes)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        """Scores before softmax or sigmoid, in fp32."""
        return _in_fp32(self.proj, self.dropout(self.norm(features)))


@remember_arguments
class TanhHead(nn.Module):
    """[LayerNorm], dropout, linear, tanh, dropout, linear: RoBERTa's and BERT's, of which the pretraining has no part.

    Args:
        width: D, also of the layer inside.
        num_classes: C.
        norm: Whether pooled features are normalised first.
        dropout: Of what each linear layer reads.
        eps: Of the norm.
    """

    def __init__(self, width: int, num_classes: int, norm: bool, dropout: float = 0.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps) if norm else nn.Identity()
        self.dropout = Dropout(dropout)
        self.hidden = nn.Linear(width, width)
        self.proj = nn.Linear(width, num_classes)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        """Scores before softmax or sigmoid, in fp32."""
        x = self.hidden(self.dropout(self.norm(features))).tanh()
        return _in_fp32(self.proj, self.dropout(x))


@remember_arguments
class CTCHead(nn.Module):
    """Dropout and one linear layer on each frame, started as fairseq starts it.

    Args:
        width: D.
        num_symbols: A, with the blank.
        dropout: Of the encoder's output.
    """

    def __init__(self, width: int, num_symbols: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.proj = nn.Linear(width, num_symbols)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n a"]:
        """Log-probabilities of the symbols, in fp32."""
        return _in_fp32(self.proj, self.dropout(tokens)).log_softmax(dim=-1)


TaskHead = CTCHead | ClassifierHead | TanhHead


def _in_fp32(layer: nn.Linear, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b c"]:
    """Whatever the precision around it and that of the weights: bf16 would round scores to three digits."""
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), layer.weight.float(), layer.bias.float())

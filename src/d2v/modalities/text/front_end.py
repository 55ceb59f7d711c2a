"""The text Transformer of data2vec: token ids in, a contextualised vector a token out."""

from typing import Literal

import torch
from torch import nn

from d2v.model.encoder import Encoder
from d2v.model.masked_input import DropMasked, ReplaceTokens
from d2v.nn.feature_extractor import TokenEmbedding
from d2v.nn.positional import ALiBi, LearnedPositions
from d2v.nn.transformer import Transformer


class TextEncoder(Encoder):
    """An encoder of token ids [B, N] that begin with ``<s>``, whose output is also called CLS.

    The layer norm and the dropout of the embeddings are those in front of the Transformer's blocks.

    Args:
        vocab_size: Types of the tokenizer, special ones included; the last is ``<mask>``.
        width: D.
        depth: Blocks that targets can be taken from.
        num_heads: H.
        prenet_depth: Blocks before those.
        masked_input: "drop" masked tokens (2.0), or "replace" them by ``<mask>`` (1.0).
        random_tokens: Share of the replaced tokens that become any other type (BERT: 0.1).
        unchanged_tokens: Share of the replaced tokens that stay what they are (BERT: 0.1).
        max_positions: Longest sequence; null: no positions are added to the tokens.
        alibi: Whether attention falls with distance.
        mlp_ratio: Hidden width of the feed-forward network over D.
        eps: Of the layer norms.
        dropout: Of the embeddings and of both branches of a block.
        attention_dropout: Of the attention weights.
        activation_dropout: Inside the feed-forward networks.
        layer_drop: Probability that a whole block is left out of a training step.
        drop_path: Stochastic depth of the last block, growing from 0.
        checkpoint_activations: Save memory, spend about a third more time.
    """

    def __init__(
        self,
        vocab_size: int = 50265,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        prenet_depth: int = 0,
        masked_input: Literal["drop", "replace"] = "drop",
        random_tokens: float = 0.0,
        unchanged_tokens: float = 0.0,
        max_positions: int | None = 512,
        alibi: bool = False,
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
        if max_positions is None and not alibi:
            raise ValueError("max_positions is null and alibi false: the encoder would not know the order of tokens")
        if masked_input == "drop" and random_tokens + unchanged_tokens > 0:
            raise ValueError("random_tokens and unchanged_tokens are for masked_input replace: others are dropped")
        super().__init__(
            feature_extractor=TokenEmbedding(vocab_size, width),
            transformer=Transformer(
                width,
                depth,
                num_heads,
                norm_first=False,
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
            masked_input=(
                DropMasked()
                if masked_input == "drop"
                else ReplaceTokens(vocab_size - 1, random_tokens, unchanged_tokens)
            ),
            positions=None if max_positions is None else LearnedPositions(max_positions, width),
            attention_bias=ALiBi(num_heads) if alibi else None,
            width=width,
            recipe={"class_path": f"{type(self).__module__}.{type(self).__qualname__}", "init_args": init_args},
            first_is_cls=True,
        )
        self.vocab_size = vocab_size
        self.max_positions = max_positions
        self._init_weights()

    @torch.no_grad()
    def _init_weights(self) -> None:
        """BERT's, as published (fairseq ``init_bert_params``)."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

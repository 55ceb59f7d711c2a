"""The front end of text: token ids to vectors."""

import functools
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.text.tokenizer_files import TOKENIZER
from d2v.model.example_inputs import ExampleInputs
from d2v.model.front_end import FrontEnd
from d2v.model.masked_input import DropMasked, MaskedInput, ReplaceTokens
from d2v.model.shown_inputs import ShownInputs
from d2v.nn.feature_extractor import TokenEmbedding
from d2v.nn.initial_weights import init_weights
from d2v.nn.positional import ALiBi, LearnedPositions
from d2v.nn.transformer import Transformer


class TextFrontEnd(FrontEnd):
    """Reads token ids [B, N] that begin with ``<s>``, whose output is also called CLS.

    The layer norm and the dropout of the embeddings are those in front of the blocks.

    Args:
        trunk: The blocks behind it.
        vocab_size: Types of the tokenizer, special ones included; the last is ``<mask>``.
        masked_input: "drop" masked tokens (2.0), or "replace" them by ``<mask>`` (1.0).
        random_tokens: Share of the replaced tokens that become any other type (BERT: 0.1).
        unchanged_tokens: Share of the replaced tokens that stay what they are (BERT: 0.1).
        max_positions: Longest sequence; null: no positions are added to the tokens.
        alibi: Whether attention falls with distance.
        prenet_depth: Blocks before those that targets can be taken from.
    """

    def __init__(
        self,
        trunk: Transformer,
        vocab_size: int = 50265,
        masked_input: Literal["drop", "replace"] = "drop",
        random_tokens: float = 0.0,
        unchanged_tokens: float = 0.0,
        max_positions: int | None = 512,
        alibi: bool = False,
        prenet_depth: int = 0,
    ) -> None:
        if max_positions is None and not alibi:
            raise ValueError("max_positions is null and alibi false: the encoder would not know the order of tokens")
        if masked_input == "drop" and random_tokens + unchanged_tokens > 0:
            raise ValueError("random_tokens and unchanged_tokens are for masked_input replace: others are dropped")
        embedding = TokenEmbedding(vocab_size, trunk.width)
        init_weights(embedding, "bert")
        nn.init.zeros_(embedding.embedding.weight[1])  # fairseq's <pad>
        hidden: MaskedInput = DropMasked()
        if masked_input == "replace":
            hidden = ReplaceTokens(vocab_size - 1, random_tokens, unchanged_tokens)
        super().__init__(
            trunk,
            embedding,
            hidden,
            positions=None if max_positions is None else LearnedPositions(max_positions, trunk.width),
            attention_bias=ALiBi(trunk.num_heads) if alibi else None,
            first_is_cls=True,
            prenet_depth=prenet_depth,
        )
        self.vocab_size = vocab_size
        self.max_positions = max_positions

    def show(self, inputs: Tensor, assets: Mapping[str, str]) -> ShownInputs | None:
        """The text of each token, where the tokenizer is among the assets."""
        if TOKENIZER not in assets:
            return None
        tokenizer = _tokenizer_of(assets[TOKENIZER])
        texts = []
        for ids in inputs.tolist():
            texts.append([tokenizer.decode([token]) for token in ids])
        return ShownInputs(texts=texts)

    def example_inputs(self) -> ExampleInputs:
        longest, limit = 10**9, ""
        if self.max_positions is not None:
            longest, limit = self.max_positions, f", N at most {self.max_positions}"
        return ExampleInputs.padded(
            f"int64 [B, N], ids of the tokens of `<s> text </s>`{limit}, N at least 2",
            lambda batch, length: torch.randint(0, self.vocab_size, (batch, length)),
            length=lambda size: min(9 + 7 * size, longest),
            kept=lambda length: length // 2,
        )


@functools.lru_cache(maxsize=4)
def _tokenizer_of(text: str) -> TextTokenizer:
    """Made once: a vocabulary takes a tenth of a second to read."""
    return TextTokenizer.from_json(text)

"""Whether an encoder can read the texts of a data module."""

from d2v.errors import UserError
from d2v.modalities.text.front_end import TextFrontEnd
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.text.tokenizer_files import TOKENIZER
from d2v.model.encoder import Encoder


def check_encoder(
    encoder: Encoder, tokenizer: TextTokenizer | None, named: str, length_key: str, length: int
) -> TextTokenizer:
    """Check that an encoder reads text and knows every token and every position; returns the tokenizer to use.

    Args:
        encoder: The one to check.
        tokenizer: The tokenizer of the data; None: the encoder must bring its own.
        named: How a message begins that is about the tokenizer.
        length_key: The key that sets ``length``.
        length: The longest sequence in tokens.

    Raises:
        UserError: The encoder does not read text, brings no tokenizer, or has too few embeddings or positions.
    """
    front = encoder.front
    if not isinstance(front, TextFrontEnd):
        raise UserError(
            f"data: the data are text, and a {type(front).__name__} does not read it; use an encoder with a "
            "TextFrontEnd"
        )
    if tokenizer is None:
        if TOKENIZER not in encoder.assets:
            raise UserError(
                "data.tokenizer: the encoder brings no tokenizer; name the one that it was trained with (a "
                "tokenizer.json, or a folder with one or with vocab.json and merges.txt)"
            )
        tokenizer = TextTokenizer.from_json(encoder.assets[TOKENIZER])
    if front.vocab_size < len(tokenizer):
        raise UserError(
            f"{named} has {len(tokenizer):,} ids, and the encoder embeds {front.vocab_size:,}. Use the tokenizer that "
            f"the encoder was trained with, or, for a new encoder, --model.student.front.vocab_size {len(tokenizer)}."
        )
    if front.max_positions is not None and front.max_positions < length:
        raise UserError(
            f"{length_key} is {length}, and the encoder has {front.max_positions} positions; set it to "
            f"{front.max_positions} or less, or, for a new encoder, set front.max_positions to {length}"
        )
    return tokenizer

"""Text: tokens from raw text, the encoder and its data."""

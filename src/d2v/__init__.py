"""data2vec for people who pretrain: one self-supervised method for pictures, speech and text."""

__version__ = "0.1.0"

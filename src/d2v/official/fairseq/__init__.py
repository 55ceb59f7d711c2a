"""Checkpoints of fairseq: data2vec 1.0 and 2.0."""

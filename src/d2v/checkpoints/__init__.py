"""Models in and out: our own checkpoints, and those of fairseq and BEiT."""

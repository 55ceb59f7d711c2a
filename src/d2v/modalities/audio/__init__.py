"""Sound as spectrograms: encoder, filter banks, sources."""

"""Pictures: encoder, sources, transforms."""

"""`d2v export`."""

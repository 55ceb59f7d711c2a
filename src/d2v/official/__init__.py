"""Models of others, read and written."""

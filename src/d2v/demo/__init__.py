"""Data that the machine can make itself."""

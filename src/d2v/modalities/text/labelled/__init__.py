"""Text with labels."""

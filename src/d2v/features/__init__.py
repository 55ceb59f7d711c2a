"""Features of files, and what is done with them."""

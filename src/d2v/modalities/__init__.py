"""One folder a modality; siblings never meet."""

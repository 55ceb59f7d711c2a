"""What the data of every modality shares: the order of samples, resuming, broken files, the base DataModule."""

"""data2vec for multichannel time series."""

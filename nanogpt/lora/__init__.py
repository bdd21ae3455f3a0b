"""Low-rank adapters: train, save, load, merge."""

"""Checkpoints on disk: model folders, their weights, config, identity and card."""

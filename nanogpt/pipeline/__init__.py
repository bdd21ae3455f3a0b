"""What concerns the pipeline as a whole: all settings, and whether they can work."""

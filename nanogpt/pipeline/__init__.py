"""The pipeline as a whole: all its settings, and the check stage."""

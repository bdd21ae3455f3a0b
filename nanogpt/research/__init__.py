"""Measurements behind docs/speed.md that no stage of the pipeline makes."""

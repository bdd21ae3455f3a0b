"""Command lines of the pipeline: each reads its flags and settings and calls one function of the package."""

"""The pipeline's entry points: each reads its params, calls the package, writes its outs."""

"""How a stage's process runs, never what it computes: no value of this package reaches a result."""

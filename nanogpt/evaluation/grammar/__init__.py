"""What models have learned of the grammars of the built-in corpora."""

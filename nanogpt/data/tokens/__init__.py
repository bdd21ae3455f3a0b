"""Tokens: from and to text, as files on disk, as batches."""

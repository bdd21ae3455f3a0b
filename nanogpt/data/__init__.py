"""Text: where it comes from, how it becomes tokens, how training reads them."""

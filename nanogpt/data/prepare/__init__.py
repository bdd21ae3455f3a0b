"""From a corpus to a folder of token bins with its tokenizer."""

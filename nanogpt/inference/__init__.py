"""Text from a model: decoding, sampling, completions of prompts."""

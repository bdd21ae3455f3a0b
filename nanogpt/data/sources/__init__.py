"""Text from anywhere: built-in grammars, the Hugging Face hub, arXiv, a download, your own files."""

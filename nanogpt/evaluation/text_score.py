"""Scores a checkpoint on raw texts, each whole, in bits per byte."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nanogpt.checkpoint.folder import load_checkpoint
from nanogpt.model.score import Score, score_documents


def score_texts(checkpoint: Path | str, texts: Iterable[str]) -> Score:
    """Score every text from its start to its end token, in the checkpoint's own tokens, in fp32 on the CPU.

    Raises UserError for a checkpoint that is missing or damaged, or a character that its tokenizer lacks.
    """
    net, tok = load_checkpoint(checkpoint)
    documents = [np.array([tok.eot, *tok.encode_array(text), tok.eot]) for text in texts]
    return score_documents(net, documents, tok.byte_lengths())

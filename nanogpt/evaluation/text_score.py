"""Scores models on raw texts, each whole, in bits per byte."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from nanogpt.evaluation.models import EvaluatedModel
from nanogpt.model.score import Score, document_nats


def score_texts(model: EvaluatedModel, texts: Sequence[str]) -> Score:
    """Score every text from its start to its end token, in the model's own tokens, in fp32.

    The bytes are those of the texts, so that models with different tokenizers are compared on the same. Raises
    UserError for a character that a tokenizer lacks and has no token in place of.
    """
    documents = [np.array(model.encode(text), np.int64) for text in texts]
    tokens = np.array([len(document) - 1 for document in documents], np.int64)
    n_bytes = np.array([len(text.encode()) for text in texts], np.int64)
    return Score(document_nats(model.net, documents), tokens, n_bytes)


def unknown_characters(model: EvaluatedModel, texts: Sequence[str]) -> Counter[str]:
    """The characters that a model's tokenizer lacks, and how often they come in all texts."""
    return sum((model.unknown(text) for text in texts), Counter())

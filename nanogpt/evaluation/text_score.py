"""Scores models on texts in bits per byte: raw ones, each whole, and those of bins."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from nanogpt.data.tokens.bins import Bin
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.evaluation.models import EvaluatedModel, OwnModel
from nanogpt.model.score import Score, document_nats, score_documents
from nanogpt.runtime.errors import UserError


def score_bins(model: EvaluatedModel, data: Bin, tok: Tokenizer) -> Score:
    """Score every document of bins in the tokens of `tok`, of conversations the answers alone, in fp32.

    A model with other tokens reads the text of the documents in its own. Raises UserError for one where they are
    conversations, and as `score_texts` does.
    """
    if isinstance(model, OwnModel) and model.tok.sha256 == tok.sha256:
        return score_documents(model.net, data.documents(), tok.byte_lengths(), prompts=data.prompts)
    if data.prompts is not None:
        raise UserError(f"{data.source}: answers are scored in the tokens of its tokenizer ({tok.kind}) only")
    return score_texts(model, [tok.decode(ids[1:-1]) for ids in data.documents()])


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

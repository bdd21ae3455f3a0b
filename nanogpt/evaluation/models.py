"""Models to evaluate: ours, with any tokenizer that we write, and every causal model that transformers opens."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from nanogpt.checkpoint.folder import load_checkpoint
from nanogpt.checkpoint.safe_links import refuse_links_out
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.inference.settings import Sampling
from nanogpt.lora.merge import open_finetuned
from nanogpt.model.loss import IGNORED
from nanogpt.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LONGEST_BLOCK = 1024  # tokens that a model from elsewhere is shown at once: all logits of a large vocabulary are costly


@dataclass(frozen=True, eq=False)
class OwnModel:
    """A model of ours and its tokenizer."""

    net: nn.Module
    tok: Tokenizer

    def encode(self, text: str, end: bool = True) -> list[int]:
        """Token ids of a text, the end token first, and last with `end`.

        Raises UserError for characters that the tokenizer lacks.
        """
        return [self.tok.eot, *self.tok.encode(text), *([self.tok.eot] if end else [])]

    def unknown(self, text: str) -> Counter[str]:
        """The characters of a text that the tokenizer lacks, and how often they come."""
        return Counter({character: n for character, n in Counter(text).items() if self.tok.unknown(character)})


class ForeignModel:
    """A causal model of transformers and its tokenizer, behind the same interface.

    A text starts with the tokenizer's beginning-of-sequence token, or with its end-of-sequence token where it has none,
    and ends with the latter. Raises UserError for a tokenizer without one.
    """

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", path: Path | str):
        if tokenizer.eos_token_id is None:
            raise UserError(f"{path}: its tokenizer has no end-of-sequence token, so that no text can end")
        self.net, self._tokenizer = _Losses(model), tokenizer
        self._end = tokenizer.eos_token_id
        self._start = self._end if tokenizer.bos_token_id is None else tokenizer.bos_token_id

    def encode(self, text: str, end: bool = True) -> list[int]:
        """Token ids of a text, the start token first, and the end token last with `end`."""
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return [self._start, *ids, *([self._end] if end else [])]

    def unknown(self, text: str) -> Counter[str]:
        """The characters of a text that become the unknown token, or that token where they cannot be told."""
        unknown = self._tokenizer.unk_token_id
        if unknown is None or unknown == self._end:  # of byte-level tokenizers, which know all
            return Counter()
        if not self._tokenizer.is_fast:
            return Counter({self._tokenizer.unk_token: n} if (n := self.encode(text).count(unknown)) else {})
        read = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        places = zip(read["input_ids"], read["offset_mapping"], strict=True)
        return Counter("".join(text[start:end] for id, (start, end) in places if id == unknown))

    def write(self, prompt: str, sampling: Sampling, seed: int) -> list[str]:
        """Continue a prompt `num_samples` times by transformers' `generate`; what is added, up to a stop string.

        A text ends where the model's positions do. Raises UserError for a prompt that needs all of them.
        """
        ids = torch.tensor([self.encode(prompt, end=False)])
        room = (self.net.positions or math.inf) - ids.size(1)
        if room < 1:
            read = f"the prompt has {ids.size(1)} tokens, and this model reads {self.net.positions} with the answer"
            raise UserError(f"{read}; make it shorter")
        torch.manual_seed(seed)
        options = {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p", "min_p")}
        options = {"top_k": 0} | {name: value for name, value in options.items() if value is not None}
        drawn = {"do_sample": False} if sampling.greedy else {"do_sample": True, **options}
        written = self.net.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=min(sampling.max_tokens, room),
            num_return_sequences=1 if sampling.greedy else sampling.num_samples,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=self._end,
            pad_token_id=self._end,
            **drawn,
        )
        texts = self._tokenizer.batch_decode(written[:, ids.size(1) :], skip_special_tokens=True)
        texts = texts * sampling.num_samples if sampling.greedy else texts
        return [_before_stop(text, sampling.stop) for text in texts]


EvaluatedModel = OwnModel | ForeignModel


class _Losses(nn.Module):
    """A model of transformers that is called as `LanguageModel` is."""

    def __init__(self, model: "PreTrainedModel"):
        super().__init__()
        self.model = model.eval()
        self.positions: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.config = SimpleNamespace(block_size=min(self.positions or LONGEST_BLOCK, LONGEST_BLOCK))

    def forward(self, ids: Tensor, targets: Tensor, reduction: Literal["none"]) -> Tensor:
        """The cross entropy (B, T) in nats of targets (B, T), 0 for IGNORED; ids (B, T) int64."""
        logits = self.model(input_ids=ids, use_cache=False).logits.float()  # (B, T, V)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction=reduction)
        return losses.view_as(targets)


def open_model(path: Path | str, base: Path | str | None = None) -> EvaluatedModel:
    """Open a model folder or .pt file of ours, an adapter, a folder of transformers' format, or a GGUF file.

    An adapter is put on the model that it names, or on `base` where that one has moved. Raises UserError for what
    cannot be read. No code of a folder is run, and nothing is fetched.
    """
    path = Path(path)
    if (path / "adapter_config.json").is_file():
        try:
            return OwnModel(*open_finetuned(path))
        except UserError:
            if base is None:
                raise
            return OwnModel(*open_finetuned(path, base))
    if path.suffix == ".gguf" or ((path / "config.json").is_file() and not _has_our_tokenizer(path)):
        return _open_foreign(path)
    return OwnModel(*load_checkpoint(path))


def _has_our_tokenizer(folder: Path) -> bool:
    try:
        return "nanogpt" in json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False


def _open_foreign(path: Path) -> ForeignModel:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not path.exists():
        raise UserError(f"{path} does not exist")
    folder, options = path, {"local_files_only": True, "trust_remote_code": False}
    if path.suffix == ".gguf":
        folder, options = path.parent, options | {"gguf_file": path.name}
    else:
        refuse_links_out(path)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
        return ForeignModel(model, AutoTokenizer.from_pretrained(folder, **options), path)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path}: transformers cannot open this as a causal model with its tokenizer ({reason})"
        ) from None


def _before_stop(text: str, stop: Sequence[str]) -> str:
    return text[: min((place for place in map(text.find, stop) if place >= 0), default=len(text))]

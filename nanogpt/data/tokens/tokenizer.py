"""Text to token ids and back: GPT-2's vocabulary, characters, bytes, or byte pairs trained on the corpus.

The first, third and fourth are one thing, byte-level BPE with three vocabularies, encoded by tiktoken.
A tokenizer is saved as `tokenizer.json` and `tokenizer_config.json`, which Hugging Face's tools open
and which hold the whole vocabulary: a model folder needs no network. The end of a document is the last
id. Its name in a text, `<|endoftext|>`, is encoded as the ordinary characters it is made of.
"""

import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from nanogpt.data.tokens.chat import TEMPLATE
from nanogpt.runtime import atomic
from nanogpt.runtime.errors import UserError

EOT = "<|endoftext|>"
# How GPT-2 cuts a text before it merges, in the faster form of tiktoken (tiktoken_ext/openai_public.py)
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
LONGEST_RUN = 250_000  # tiktoken's regex engine panics on about four times as many white-space characters in a row
BYTES = [bytes([byte]) for byte in range(256)]


class Tokenizer(ABC):
    """What all kinds share.

    `pieces[id]` is the UTF-8 of each id, empty for the end token `eot` = `n_tokens` - 1 and for the ids
    from `n_tokens` up, which exist only to round `vocab_size`, the rows of the embedding, up to a
    multiple of 64. `chat` says that the model it belongs to has learned to answer in the template of `chat.py`.
    """

    def __init__(self, kind: str, pieces: Sequence[bytes]):
        self.kind = kind
        self.chat = False
        self.eot = len(pieces)
        self.n_tokens = len(pieces) + 1
        self.vocab_size = -(-self.n_tokens // 64) * 64
        self.pieces = [*pieces, *[b""] * (self.vocab_size - len(pieces))]

    @property
    def sha256(self) -> str:
        """Identity of the mapping from text to ids: bins and models that carry the same one go together."""
        return hashlib.sha256(repr((type(self).__name__, self.pieces)).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without an end token."""
        return self.encode_array(text).tolist()

    @abstractmethod
    def encode_array(self, text: str) -> np.ndarray:
        """The same as (n,) unsigned integers; other threads run meanwhile."""

    def unknown(self, text: str) -> int:
        """How many characters of a text have no tokens of their own."""
        return 0

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; end tokens have none, and bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.pieces[i] for i in ids).decode(errors="replace")

    def byte_lengths(self) -> np.ndarray:
        """(vocab_size,) int64, the bytes of UTF-8 text that each id stands for."""
        return np.array([len(piece) for piece in self.pieces], np.int64)

    def save(self, folder: os.PathLike | str) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` to a folder, made if missing.

        Equal tokenizers give equal bytes.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        end = {"id": self.eot, "content": EOT, "single_word": False, "lstrip": False, "rstrip": False}
        document = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [end | {"normalized": False, "special": True}],
            "normalizer": None,
            "post_processor": None,
            **self._hugging_face(),
        }
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": EOT,
            "eos_token": EOT,
            "unk_token": EOT,
            "clean_up_tokenization_spaces": False,
            "nanogpt": {"kind": self.kind},
        } | ({"chat_template": TEMPLATE} if self.chat else {})
        atomic.write_text(folder / "tokenizer.json", json.dumps(document, ensure_ascii=False))
        atomic.write_text(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")

    @abstractmethod
    def _hugging_face(self) -> dict:
        """The keys pre_tokenizer, decoder and model of Hugging Face's format."""


class BytePairs(Tokenizer):
    """Byte-level BPE: kinds gpt2, bpe, and byte, which has no merges.

    `pieces` are in the order of their ranks and contain all 256 bytes; of the neighbours whose joint
    bytes are a piece, those with the lowest rank are merged first.
    """

    def __init__(self, kind: str, pieces: Sequence[bytes]):
        from tiktoken import Encoding

        super().__init__(kind, pieces)
        self._ranks = {piece: rank for rank, piece in enumerate(pieces)}
        self.encoding = Encoding(kind, pat_str=PATTERN, mergeable_ranks=self._ranks, special_tokens={EOT: self.eot})

    def encode_array(self, text: str) -> np.ndarray:
        """(n,) uint32; half a surrogate pair, which a damaged command line brings, counts as U+FFFD."""
        try:
            parts = [self.encoding.encode_to_numpy(part, disallowed_special=()) for part in _split_long_runs(text)]
        except UnicodeEncodeError:
            return self.encode_array(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def letters(self) -> tuple[list[str], list[tuple[str, str]]]:
        """The pieces in the order of their ids, and the merges, in GPT-2's visible letters."""
        letters = byte_letters()
        write = {piece: "".join(letters[byte] for byte in piece) for piece in self._ranks}
        # tiktoken merges any two neighbours whose joint bytes have a rank, Hugging Face only pairs that
        # are listed: so all the ways to cut a piece in two are listed, as transformers' converter does.
        merges = [
            (write[left], write[right])
            for piece in self._ranks
            for left, right in sorted(
                ((piece[:cut], piece[cut:]) for cut in range(1, len(piece))),
                key=lambda pair: [self._ranks.get(half, -1) for half in pair],
            )
            if left in self._ranks and right in self._ranks
        ]
        return list(write.values()), merges

    def _hugging_face(self) -> dict:
        pieces, merges = self.letters()
        return {
            "pre_tokenizer": PRE_TOKENIZERS["BPE"],
            "decoder": PRE_TOKENIZERS["BPE"],  # of the same type, with the same options
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": True,  # tiktoken too takes a word that is a piece as it is
                "vocab": {piece: id for id, piece in enumerate([*pieces, EOT])},
                "merges": merges,
            },
        }


class Characters(Tokenizer):
    """Kind char: one id for each character of the corpus.

    With a `substitute`, one of `characters`, it takes the place of a character that is not among them;
    with None such a character raises UserError.
    """

    def __init__(self, characters: Sequence[str], substitute: str | None):
        super().__init__("char", [character.encode() for character in characters])
        self._characters, self._substitute = characters, substitute
        self._ids = np.full(0x110000, -1, np.int32)  # by code point
        self._ids[[ord(character) for character in characters]] = np.arange(len(characters))

    def encode_array(self, text: str) -> np.ndarray:
        """(n,) uint32. Raises UserError for a character that is not known where there is no substitute."""
        codes = _code_points(text)
        ids = self._ids[codes]
        unknown = ids < 0
        if unknown.any():
            if self._substitute is None:
                raise _unknown_characters_error(codes[unknown])
            ids[unknown] = self._ids[ord(self._substitute)]
        return ids.astype(np.uint32)

    def unknown(self, text: str) -> int:
        """How many characters of a text the substitute stands in for."""
        return int(np.count_nonzero(self._ids[_code_points(text)] < 0))

    def _hugging_face(self) -> dict:
        vocab = {character: i for i, character in enumerate(self._characters)}
        return {
            "pre_tokenizer": PRE_TOKENIZERS["WordLevel"],
            "decoder": {"type": "Fuse"},
            # without a substitute the name is of no token, so that Hugging Face raises an error as we do
            "model": {"type": "WordLevel", "vocab": vocab | {EOT: self.eot}, "unk_token": self._substitute or "<unk>"},
        }


PRE_TOKENIZERS = {
    "BPE": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "WordLevel": {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
}


def load_tokenizer(folder: os.PathLike | str) -> Tokenizer:
    """The tokenizer of a folder that `save` wrote. Raises UserError where it is missing or damaged."""
    path = Path(folder) / "tokenizer.json"
    try:
        document = json.loads(path.read_text("utf-8"))
        config = path.with_name("tokenizer_config.json")
        options = json.loads(config.read_text("utf-8")) if config.exists() else {}
        tokenizer = _from_documents(document, options.get("nanogpt", {}))
        tokenizer.chat = options.get("chat_template") == TEMPLATE
        return tokenizer
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name a folder that holds a tokenizer, or run `dvc repro`") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: damaged, or not of a kind this project writes ({type(error).__name__}: {error}); take it back "
            "with `dvc checkout` or write it again with `dvc repro`"
        ) from None


def load_from_checkpoint(init_from: os.PathLike | str) -> Tokenizer | None:
    """The tokenizer in the folder of a checkpoint to start from, None where there is none.

    Raises UserError for one that is not of a kind we read.
    """
    if not (Path(init_from) / "tokenizer.json").is_file():
        return None
    try:
        return load_tokenizer(init_from)
    except UserError as error:
        raise UserError(
            f"train.init_from = {init_from}: its tokenizer cannot be used here; give the checkpoint another with "
            f"`python -m stages.convert --checkpoint {init_from} --tokenizer FOLDER --out NEW` ({error})"
        ) from None


def _from_documents(document: dict, label: dict) -> Tokenizer:
    model = document["model"]
    vocab = sorted(model["vocab"], key=model["vocab"].get)
    if [model["vocab"][piece] for piece in vocab] != list(range(len(vocab))) or vocab.pop() != EOT:
        raise ValueError(f"the ids are not 0, 1, 2, … with {EOT} as the last")
    cuts = {"use_regex": True} if model["type"] == "BPE" else {}  # what older files leave unsaid
    if cuts | document["pre_tokenizer"] != PRE_TOKENIZERS.get(model["type"]) or document["normalizer"]:
        raise ValueError("it cuts text in another way")
    if model["type"] == "WordLevel":
        return Characters(vocab, model["unk_token"] if model["unk_token"] in model["vocab"] else None)
    pieces = pieces_from_letters(vocab)
    if not set(BYTES).issubset(pieces):
        raise ValueError("it lacks some of the 256 bytes")
    _check_merges(model)
    return BytePairs(label.get("kind", "bpe"), pieces)


def _check_merges(model: dict) -> None:
    """Raise ValueError where merging in the order of the list differs from tiktoken's way, the order of ids.

    `model` is that key of tokenizer.json. Its merges are pairs of pieces, or strings with a space between.
    """
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    ids = [model["vocab"][left + right] for left, right in pairs]
    merged = {id for piece, id in model["vocab"].items() if len(piece) > 1 and piece != EOT}
    if ids != sorted(ids) or set(ids) != merged:
        raise ValueError("its merges are not in the order of its ids, so the same text would become other tokens here")
    if any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")):
        raise ValueError("it marks parts of words, or drops merges by chance")


def _split_long_runs(text: str) -> list[str]:
    """The text, cut inside runs of white space that are too long for tiktoken."""
    if len(text) <= LONGEST_RUN:
        return [text]
    runs = (run.span() for run in re.finditer(r"\s+", text))
    cuts = [cut for start, end in runs for cut in range(start + LONGEST_RUN, end, LONGEST_RUN)]
    return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]


def _code_points(text: str) -> np.ndarray:
    """(n,) uint32 code points; half a surrogate pair is a character that we do not know."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def byte_letters() -> list[str]:
    """GPT-2's visible letter for each of the 256 bytes, with which Hugging Face writes a vocabulary."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


def pieces_from_letters(pieces: Iterable[str]) -> list[bytes]:
    """The bytes of pieces that are written in GPT-2's visible letters."""
    byte_of = {letter: byte for byte, letter in enumerate(byte_letters())}
    return [bytes(byte_of[letter] for letter in piece) for piece in pieces]


def _unknown_characters_error(codes: np.ndarray) -> UserError:
    found = Counter(codes.tolist())
    named = ", ".join(f"{chr(code)!r} U+{code:04X}" for code in list(found)[:10])
    return UserError(
        f"the text has {len(found)} character(s) that the char tokenizer does not know: {named}"
        f"{', …' if len(found) > 10 else ''}; set tokenizer.unknown: replace, or tokenizer.kind: byte, bpe or gpt2"
    )

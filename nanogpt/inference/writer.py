"""Writes texts: an engine with a tokenizer, from prompts as text to text in pieces."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from nanogpt.data.tokens.chat import render_prompt
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.inference.engine import Engine, Row
from nanogpt.inference.products import WeightDtype, fastest, supported
from nanogpt.inference.sampling import Token
from nanogpt.inference.settings import Sampling
from nanogpt.inference.text_stream import TextStream
from nanogpt.inference.threads import ThreadChoice
from nanogpt.model.language_model import LanguageModel
from nanogpt.runtime.errors import BadSetting

Finish = Literal["stop", "length"]


@dataclass(eq=False)
class Text:
    """A text that is being written. `finish`: "stop" at an end token or stop string, "length" at `max_tokens`."""

    prompt_tokens: int
    row: Row
    stream: TextStream
    written: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: Finish | None = None


class Writer:
    """Writes texts with a model and its tokenizer; `dtype` is that of the weights, see `products.pack`.

    Raises BadSetting for a dtype that there are no kernels for.
    """

    def __init__(self, model: LanguageModel, tok: Tokenizer, dtype: WeightDtype | Literal["auto"] = "auto"):
        if dtype != "auto" and dtype not in supported():
            raise BadSetting("dtype", dtype, "there are no kernels for it here", f"choose auto or {supported()}")
        self.tok, self.dtype = tok, fastest() if dtype == "auto" else dtype
        self.engine = Engine(model, tok.n_tokens, tok.eot, self.dtype)
        self.texts: dict[Row, Text] = {}
        self.threads = ThreadChoice()

    def messages(self, prompt: str) -> str | list[dict[str, str]]:
        """A prompt as the model takes it: a message to answer where it has a chat template, else a text to continue."""
        return [{"role": "user", "content": prompt}] if self.tok.chat else prompt

    def encode(self, prompt: str | Sequence[dict[str, str]]) -> list[int]:
        """Token ids of a text to continue, or of messages (`role`, `content`) to answer.

        Raises UserError for characters that the tokenizer lacks.
        """
        return self.tok.encode(prompt if isinstance(prompt, str) else render_prompt(prompt))

    def add(
        self, ids: Sequence[int], sampling: Sampling, seed: int, number: int = 0, top_logprobs: int | None = None
    ) -> Text:
        """Let a text be continued; see `Engine.add`."""
        row = self.engine.add(ids, sampling, seed, number, top_logprobs)
        text = self.texts[row] = Text(len(row.tokens), row, TextStream(self.tok, sampling.stop))
        return text

    def remove(self, text: Text) -> None:
        """Stop writing a text."""
        self.engine.remove(text.row)
        self.texts.pop(text.row, None)

    def step(self) -> list[tuple[Text, str]]:
        """Add a token to every text, and return what became certain of each; a text with `finish` is complete."""
        if not self.texts:
            return []
        news = []
        for row, token in self.threads.run(self.engine.step):
            text = self.texts[row]
            text.tokens.append(token)
            piece = "" if token.id == self.tok.eot else text.stream.add(token.id)
            if token.id == self.tok.eot or text.stream.stopped:
                text.finish = "stop"
            elif not row.left:
                text.finish = "length"
            if text.finish:
                piece += text.stream.finish()
                self.remove(text)
            text.written += piece
            news.append((text, piece))
        return news

    def write(
        self, prompts: Sequence[str | Sequence[dict[str, str]]], sampling: Sampling, seed: int
    ) -> list[list[Text]]:
        """Write `num_samples` texts for each prompt, all at once.

        Equal arguments give equal texts. Raises UserError for characters that the tokenizer lacks.
        """
        ids = [self.encode(prompt) for prompt in prompts]
        texts = [[self.add(each, sampling, seed, n) for n in range(sampling.num_samples)] for each in ids]
        while self.step():
            pass
        return texts

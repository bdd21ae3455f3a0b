"""Writes texts in OpenAI's form: whole, or in pieces as server-sent events; with log-probabilities where asked for."""

import codecs
import json
import math
import secrets
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.inference.openai_request import Asked
from nanogpt.inference.sampling import Token
from nanogpt.inference.worker import Job, News

Placed = tuple[Token, int]  # a token, and at which character of its text it begins


class Reported:
    """Which tokens of a text are reported: those that have a part in what is written of it.

    So neither the end token is, nor the tokens of a stop string, which are held back until they prove to be none.
    """

    def __init__(self, tok: Tokenizer):
        self._pieces, self._eot = tok.pieces, tok.eot
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._characters = self._written = 0
        self._held: deque[Placed] = deque()

    def add(self, token: Token, piece: str) -> list[Placed]:
        """Take the next token and what was written with it, and return the tokens that this makes certain."""
        self._written += len(piece)
        if token.id != self._eot:
            self._held.append((token, self._characters))
            self._characters += len(self._decode(self._pieces[token.id]))
        found = []
        while self._held and self._held[0][1] < self._written:
            found.append(self._held.popleft())
        return found


class Answer:
    """The answer to one request, by the model `name`; `created` and `id` are the same in all parts of it."""

    def __init__(self, asked: Asked, name: str, tok: Tokenizer, job: Job):
        self.asked, self.tok, self.job = asked, tok, job
        kinds = ("chatcmpl", "chat.completion") if asked.chat else ("cmpl", "text_completion")
        self.head = {"id": f"{kinds[0]}-{secrets.token_hex(12)}", "object": kinds[1]}
        self.head |= {"created": int(time.time()), "model": name}
        chunk = self.head | ({"object": f"{kinds[1]}.chunk"} if asked.chat else {})
        self._start = f'data: {json.dumps(chunk)[:-1]}, "choices":['
        self._end = '],"usage":null}\n\n' if asked.include_usage else "]}\n\n"
        self._reported = [Reported(tok) for _ in range(job.count)]

    def whole(self) -> dict[str, Any]:
        """The texts of a job that has ended, as one object."""
        choices = []
        for index, text in enumerate(self.job.texts):
            content = {"text": text.written}
            if self.asked.chat:
                content = {"message": {"role": "assistant", "content": text.written, "refusal": None}}
            logprobs = None
            if self.asked.top_logprobs is not None:
                reported = self._reported[index]
                # Of a whole text all is written at once; the tokens come after it.
                found = reported.add(Token(self.tok.eot), text.written)
                for token in text.tokens:
                    found += reported.add(token, "")
                logprobs = self._logprobs(found)
            choices.append({"index": index} | content | {"logprobs": logprobs, "finish_reason": text.finish})
        return self.head | {"choices": choices, "usage": self._usage()}

    def begin(self) -> str:
        """The events before those of the texts: who speaks."""
        if not self.asked.chat:
            return ""
        delta = '"delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null'
        return "".join(f'{self._start}{{"index": {i}, {delta}}}{self._end}' for i in range(self.job.count))

    def events(self, news: Sequence[News]) -> str:
        """One event for each step of a text that added something to it, or ended it."""
        return "".join(map(self._event, news))

    def finish(self) -> str:
        """The events after those of the texts."""
        if not self.asked.include_usage:
            return "data: [DONE]\n\n"
        return f'{self._start}], "usage": {json.dumps(self._usage())}}}\n\ndata: [DONE]\n\n'

    def _event(self, news: News) -> str:
        logprobs = "null"
        if self.asked.top_logprobs is not None:
            found = self._reported[news.index].add(news.token, news.piece)
            logprobs = json.dumps(self._logprobs(found)) if found else "null"
        if not news.piece and not news.finish:
            return ""
        text = json.dumps(news.piece)
        text = f'"delta": {{"content": {text}}}' if self.asked.chat else f'"text": {text}'
        finish = f'"{news.finish}"' if news.finish else "null"
        choice = f'{{"index": {news.index}, {text}, "logprobs": {logprobs}, "finish_reason": {finish}}}'
        return f"{self._start}{choice}{self._end}"

    def _usage(self) -> dict[str, int]:
        prompts = self.job.texts[:: self.job.sampling.num_samples]
        prompt = sum(text.prompt_tokens for text in prompts)
        completion = sum(len(text.tokens) for text in self.job.texts)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _logprobs(self, found: Sequence[Placed]) -> dict[str, Any]:
        if self.asked.chat:
            return {"content": [self._chat_token(token) for token, _ in found], "refusal": None}
        return {
            "tokens": [self._name(token.id) for token, _ in found],
            "token_logprobs": [token.logprob for token, _ in found],
            "top_logprobs": [self._likeliest(token) for token, _ in found],
            "text_offset": [place for _, place in found],
        }

    def _likeliest(self, token: Token) -> dict[str, float]:
        """The likeliest tokens and the chosen one, as OpenAI has them."""
        found = {self._name(id): logprob for id, logprob in token.top if logprob > -math.inf}
        return found | {self._name(token.id): token.logprob}

    def _chat_token(self, token: Token) -> dict[str, Any]:
        likeliest = [self._entry(id, logprob) for id, logprob in token.top if logprob > -math.inf]
        return self._entry(token.id, token.logprob) | {"top_logprobs": likeliest}

    def _entry(self, id: int, logprob: float) -> dict[str, Any]:
        piece = self._piece(id)
        return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}

    def _name(self, id: int) -> str:
        """The text of a token, or as OpenAI writes it "bytes:\\xe2\\x80" where that is not whole characters."""
        piece = self._piece(id)
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)

    def _piece(self, id: int) -> bytes:
        return b"<|endoftext|>" if id == self.tok.eot else self.tok.pieces[id]

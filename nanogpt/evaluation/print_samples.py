"""Writes texts of one model as they come: to the terminal, as JSON lines, or in a conversation."""

import json
import sys

from nanogpt.data.tokens.chat import ANSWER
from nanogpt.inference.settings import SampleSettings
from nanogpt.inference.writer import Text, Writer
from nanogpt.runtime.errors import UserError


def print_samples(writer: Writer, settings: SampleSettings, seed: int) -> None:
    """Print `num_samples` texts for each prompt one after the other, each token as soon as it is chosen.

    Raises UserError for characters that the tokenizer lacks.
    """
    for prompt in settings.prompts:
        for number in range(settings.num_samples):
            ids = writer.encode(writer.messages(prompt))
            text = writer.add(ids, settings, seed, number)
            print(writer.tok.decode(ids), end="", flush=True)
            _print(writer, text)
            print("\n", flush=True)


def print_json_lines(writer: Writer, settings: SampleSettings, seed: int) -> None:
    """Print a JSON object for each text, with `prompt`, `text` (what was added), `tokens` and `finish_reason`.

    All texts are written at once, and printed in the order of the prompts. Raises UserError as `print_samples` does.
    """
    texts = writer.write([writer.messages(prompt) for prompt in settings.prompts], settings, seed)
    for prompt, written in zip(settings.prompts, texts, strict=True):
        for text in written:
            found = {"prompt": prompt, "text": text.written, "tokens": len(text.tokens), "finish_reason": text.finish}
            print(json.dumps(found, ensure_ascii=False))


def converse(writer: Writer, settings: SampleSettings, seed: int) -> None:
    """Ask for prompts until an empty line, and write after each as it comes.

    Where the model has a chat template, it answers, and sees the conversation so far; elsewhere it continues each
    prompt. A prompt with characters that the tokenizer lacks is asked for again. Raises UserError for one that is not
    UTF-8.
    """
    history: list[dict[str, str]] = []
    number = 0
    while prompt := _ask("you> " if writer.tok.chat else "prompt> "):
        asked = [*history, {"role": "user", "content": prompt}] if writer.tok.chat else prompt
        try:
            text = writer.add(writer.encode(asked), settings, seed, number)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        print(ANSWER if writer.tok.chat else prompt, end="", flush=True)
        _print(writer, text)
        print("\n", flush=True)
        number += 1
        if writer.tok.chat:
            history = [*asked, {"role": "assistant", "content": text.written.strip()}]


def _ask(question: str) -> str:
    try:
        return input(question)
    except EOFError:
        return ""
    except UnicodeDecodeError:
        raise UserError("what was written is not UTF-8; write it again") from None


def _print(writer: Writer, text: Text) -> None:
    """Print what is added to the only text of a writer."""
    while not text.finish:
        for _, piece in writer.step():
            print(piece, end="", flush=True)

"""Reads the page of samples back, and finds the words that a grammar rejects."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nanogpt.evaluation.grammar.judge import find_mistake
from nanogpt.evaluation.grammar.phenomena import GRAMMARS


@dataclass(frozen=True)
class Sample:
    """A text of a model; `mistake` are the places where its first wrong word starts and ends, and the reason."""

    text: str
    mistake: tuple[int, int, str] | None


def read_samples(page: str, sources: Iterable[str]) -> dict[str, dict[str, list[Sample]]]:
    """The texts of a page of `stages.sample` by prompt and model, judged by those of `sources` that are built in."""
    known = [GRAMMARS[source] for source in sources if source in GRAMMARS]
    found: dict[str, dict[str, list[Sample]]] = {}
    for section in page.split("\n## ")[1:]:
        prompt, _, rest = section.partition("\n")
        for part in rest.split("\n### ")[1:]:
            model, _, quoted = part.partition("\n")
            texts = ("\n".join(re.findall(r"^> ?(.*)$", block, re.MULTILINE)) for block in _blocks(quoted))
            found.setdefault(prompt, {})[model] = [Sample(text, _first_mistake(text, known)) for text in texts]
    return found


def _blocks(quoted: str) -> Iterator[str]:
    """Blocks of quoted lines, parted by empty ones."""
    return (block for block in re.split(r"\n{2,}", quoted.strip()) if block.startswith(">"))


def _first_mistake(text: str, known: list) -> tuple[int, int, str] | None:
    """That of the grammar that comes furthest; None where one draws the text, or it only lacks its end."""
    mistakes = [find_mistake(grammar, phenomena, text) for grammar, phenomena in known]
    if not mistakes or None in mistakes:
        return None
    last = max(mistakes, key=lambda mistake: mistake.place)
    if last.reason == "unfinished":
        return None
    word = re.match(r"\s*\S*", text[last.place :])
    return last.place, last.place + word.end(), last.reason

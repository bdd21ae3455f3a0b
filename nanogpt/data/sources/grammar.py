"""A probabilistic grammar written as data, which draws texts and says how probable each one was.

Where the exact probability of every text is known, so is the lowest loss any model can reach on it.
The sum of `bits` below is that floor only while a text has one derivation alone: a grammar must show
in the text everything it draws, and no two of its alternatives may yield the same words.

**Rules** map a symbol to its alternatives: templates, all equally likely, or more likely where repeated.
**Tables** map `"SYMBOL column column ..."` to rows parted by `;`, all equally likely; a row's cells are
parted by `|`, and `~` in a cell stands for the row's first cell. A template is text with slots:

    {PLOT}               an alternative of a rule, or a row of a table (its first cell)
    {COLOUR.a}           a row of a table, its column `a`
    {hero=HERO}          the same, and the row is remembered as `hero` to the end of the text
    {hero} {hero.his}    the remembered row again: its first cell, its column `his`
    {^hero.he}           with a capital; for any slot but a rule's
    {GOAL@topic}         the symbol `GOAL@k`, k being column `kind` of the row remembered as `topic`
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import log2
from random import Random
from typing import NamedTuple

from nanogpt.data.sources.document import Corpus, DataSettings, Document
from nanogpt.runtime.ranges import CheckedSettings, Seed

Rules = Mapping[str, Sequence[str]]
Tables = Mapping[str, str]

START = "TEXT"
SLOT = re.compile(r"\{(?P<cap>\^?)(?:(?P<name>[a-z]+)=)?(?P<what>\w+)(?:@(?P<at>[a-z]+))?(?:\.(?P<column>\w+))?\}")

Row = dict[str, str]  # column -> cell, and "^" + column -> cell with a capital; "" is the first column


@dataclass(frozen=True)
class GeneratorSettings(CheckedSettings):
    """Section `data.stories` or `data.abstracts` of params.yaml: which texts are drawn."""

    seed: Seed


class Slot(NamedTuple):
    """A slot of a template, and the text between it and the slot before.

    `tickets` are what it draws from, all equally likely: each is (bits, row, None), or for an alternative of a rule
    (bits, slots, text after the last slot). They are None for a slot that recalls `name`, and by kind where the row
    remembered as `at` decides. `key` is the cell that is written.
    """

    before: str
    tickets: list[tuple] | dict[str, list[tuple]] | None
    name: str | None
    key: str
    at: str | None
    symbol: str | None

    @property
    def recalls(self) -> bool:
        """Whether it shows a row that is remembered."""
        return self.tickets is None and self.name is not None


class Grammar:
    """Rules and tables made ready for drawing; they stay readable as given, for whoever checks them.

    Raises KeyError where a template names a symbol that is not there.
    """

    def __init__(self, rules: Rules, tables: Tables):
        self.rules, self.tables = rules, tables
        self._tickets: dict[str, list[tuple]] = {symbol: [] for symbol in rules}
        for head, body in tables.items():
            symbol, *columns = head.split()
            rows = [_row(columns, cells) for cells in body.split(";")]
            self._tickets[symbol] = [(log2(len(rows)), row, None) for row in rows]
        for symbol, templates in rules.items():
            for template in templates:
                bits = log2(len(templates) / templates.count(template))
                self._tickets[symbol].append((bits, *self._compile(template)))
        self.start = self._compile(f"{{{START}}}")

    def _compile(self, template: str) -> tuple[list[Slot], str]:
        """The slots of a template, and the text after the last."""
        slots, end = [], 0
        for match in SLOT.finditer(template):
            cap, name, what, at, column = match.groups()
            key, before = cap + (column or ""), template[end : match.start()]
            end = match.end()
            if what.islower():
                slots.append(Slot(before, None, what, key, None, None))
            elif at:
                by_kind = {s.split("@")[1]: tickets for s, tickets in self._tickets.items() if s.startswith(what + "@")}
                slots.append(Slot(before, by_kind, name, key, at, what))
            else:
                slots.append(Slot(before, self._tickets[what], name, key, None, what))
        return slots, template[end:]

    def draw(self, rng: Random) -> tuple[str, float]:
        """One text and -log2 of its probability."""
        pieces: list[str] = []
        bits = self._write(*self.start, {}, rng.random, pieces.append)
        return "".join(pieces), bits

    def _write(self, slots: list[Slot], tail: str, remembered: dict[str, Row], random, write) -> float:
        """Fill the slots, drawing what they ask for; the bits of all that was drawn."""
        bits = 0.0
        for before, tickets, name, key, at, _ in slots:
            write(before)
            if tickets is None:
                write(remembered[name][key])
                continue
            if at:
                tickets = tickets[remembered[at]["kind"]]
            cost, drawn, rest = tickets[int(random() * len(tickets))]
            bits += cost
            if rest is not None:
                bits += self._write(drawn, rest, remembered, random, write)
                continue
            write(drawn[key])
            if name:
                remembered[name] = drawn
        write(tail)
        return bits


def _row(columns: Sequence[str], cells: str) -> Row:
    first, *others = (cell.strip() for cell in cells.split("|"))
    row = [first, *(cell.replace("~", first) for cell in others)]
    named = dict(zip(columns or ["it"], row, strict=True)) | {"": first}
    return named | {"^" + column: cell[:1].upper() + cell[1:] for column, cell in named.items()}


def generated_corpus(name: str, grammar: Grammar, settings: DataSettings, generator: GeneratorSettings) -> Corpus:
    """The first `settings.num_samples` texts that `generator.seed` draws: asking for more only adds to the end."""

    def documents(skipped: Counter[str]) -> Iterator[Document]:
        rng = Random(generator.seed)  # only random() is used: its sequence for a seed is the same in every Python
        draws = iter(lambda: grammar.draw(rng), None)
        return (Document(text, bits) for text, bits in islice(draws, settings.num_samples))

    return Corpus(name, "MIT (generated)", documents, exact=True, size=settings.num_samples)

"""All derivations of a text under a grammar, found by parsing, and the fewest bits of any text.

Written apart from `nanogpt.data.sources.grammar`: it shares only the rules and tables as they are written down,
so that a mistake in drawing or in counting bits shows up as a disagreement.
"""

from collections import defaultdict
from functools import cache
from math import log2

from nanogpt.data.sources.grammar import Rules, Tables


class Scorer:
    """A grammar as its parser sees it; `parts` tells what a template becomes."""

    def __init__(self, rules: Rules, tables: Tables):
        self.rules: dict[str, list[tuple[float, tuple]]] = {}  # symbol -> (bits, parts) of each alternative
        self.tables: dict[str, list[dict[str, str]]] = {}  # symbol -> rows
        self.kinds = defaultdict(dict)  # SYMBOL -> kind -> SYMBOL@kind
        for symbol, alternatives in rules.items():
            pairs = [(alternatives.count(template), template) for template in dict.fromkeys(alternatives)]
            self.rules[symbol] = [(-log2(weight / len(alternatives)), parts(template)) for weight, template in pairs]
        for head, body in tables.items():
            symbol, *columns = head.split()
            self.tables[symbol] = []
            for line in body.split(";"):
                cells = [cell.strip() for cell in line.split("|")]
                cells = [cell if i == 0 else cell.replace("~", cells[0]) for i, cell in enumerate(cells)]
                self.tables[symbol].append(dict(zip(columns, cells, strict=bool(columns))) | {"": cells[0]})
        for symbol in [*self.rules, *self.tables]:
            if "@" in symbol:
                base, kind = symbol.split("@")
                self.kinds[base][kind] = symbol

    def derivations(self, text: str) -> list[float]:
        """The bits of every derivation of exactly this text."""
        found = []
        # A state: where in the text, what is still to be matched (a linked list), the rows by name, the bits so far.
        agenda = [(0, (("slot", False, None, "TEXT", None, ""), None), {}, 0.0)]
        while agenda:
            at, todo, rows, bits = agenda.pop()
            if todo is None:
                if at == len(text):
                    found.append(bits)
                continue
            part, rest = todo
            if part[0] == "text":
                if text.startswith(part[1], at):
                    agenda.append((at + len(part[1]), rest, rows, bits))
                continue
            _, capital, name, symbol, decider, column = part
            if symbol is None:
                cell = shown(rows[name][column], capital)
                if text.startswith(cell, at):
                    agenda.append((at + len(cell), rest, rows, bits))
                continue
            if decider:
                symbol = self.kinds[symbol][rows[decider]["kind"]]
            for cost, alternative in self.rules.get(symbol, ()):
                todo = rest
                for each in reversed(alternative):
                    todo = (each, todo)
                agenda.append((at, todo, rows, bits + cost))
            for row in self.tables.get(symbol, ()):
                cell = shown(row[column], capital)
                if text.startswith(cell, at):
                    known = rows | {name: row} if name else rows
                    agenda.append((at + len(cell), rest, known, bits + log2(len(self.tables[symbol]))))
        return found

    def begins(self, text: str) -> bool:
        """Whether the grammar draws a text that begins so."""
        agenda = [(0, (("slot", False, None, "TEXT", None, ""), None), {})]
        while agenda:
            at, todo, rows = agenda.pop()
            if at >= len(text):
                return True
            if todo is None:
                continue
            (kind, *about), rest = todo
            if kind == "text":
                choices = [(about[0], rows)]
            else:
                capital, name, symbol, decider, column = about
                if decider:
                    symbol = self.kinds[symbol][rows[decider]["kind"]]
                drawn = [rows[name]] if symbol is None else self.tables.get(symbol, ())
                choices = [(shown(row[column], capital), rows | {name: row}) for row in drawn]
                for _, alternative in self.rules.get(symbol, ()):
                    following = rest
                    for each in reversed(alternative):
                        following = (each, following)
                    agenda.append((at, following, rows))
            for cell, known in choices:
                if cell.startswith(text[at : at + len(cell)]):
                    agenda.append((at + len(cell), rest, known))
        return False

    def least_bits(self) -> float:
        """The bits of the most probable derivation."""

        @cache
        def least(symbol: str) -> float:
            if symbol in self.tables:
                return log2(len(self.tables[symbol]))
            return min(
                bits + sum(min(map(least, self.symbols(p))) for p in alternative if p[0] == "slot" and p[3])
                for bits, alternative in self.rules[symbol]
            )

        return least("TEXT")

    def symbols(self, part: tuple) -> list[str]:
        """The symbols that a slot may draw from."""
        return list(self.kinds[part[3]].values()) if part[4] else [part[3]]


def parts(template: str) -> tuple:
    """A template cut into ("text", it) and ("slot", capital, name, symbol, decider, column).

    What is not there is None; a slot without a symbol recalls.
    """
    result = []
    for i, piece in enumerate(template.replace("}", "{").split("{")):
        if i % 2 == 0:
            if piece:
                result.append(("text", piece))
            continue
        capital, piece = piece.startswith("^"), piece.lstrip("^")
        piece, _, column = piece.partition(".")
        piece, _, decider = piece.partition("@")
        name, drawn, symbol = piece.rpartition("=")
        if not drawn and symbol.islower():
            name, symbol = symbol, None
        result.append(("slot", capital, name or None, symbol, decider or None, column))
    return tuple(result)


def shown(cell: str, capital: bool) -> str:
    """A cell as the text shows it."""
    return cell[0].upper() + cell[1:] if capital else cell

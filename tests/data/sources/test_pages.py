import gzip
import os
from collections import Counter

import pytest

from nanogpt.data.sources.pages import Pages
from nanogpt.runtime.errors import UserError

TEXTS = ["One.\n\nTwo paragraphs.", "Ünïcode 😀 \u2028 end", "", "\x00\t\r\n"]


def texts_of(pages: Pages) -> list[str]:
    return [document.text for document in pages.read_documents(None, Counter())]


class Source:
    """Numbers as documents, three to a page; `asked` holds where each fetch went on from."""

    def __init__(self, count: int):
        self.count, self.asked, self.given = count, [], 0

    def more(self, states: list[dict]):
        position = states[-1]["position"] if states else 0
        self.asked.append(position)
        while position < self.count:
            texts = [str(number) for number in range(position, min(position + 3, self.count))]
            position += len(texts)
            self.given += 1
            yield texts, {"position": position} | ({"end": True} if position == self.count else {})


def test_what_was_appended_comes_back(tmp_path):
    pages = Pages(tmp_path)
    states = [{"cursor": None, "nested": {"a": [1, 2.5, "ü"]}}, {}, {"end": True}]
    for texts, state in zip((TEXTS, [], ["last"]), states, strict=True):
        pages.append(texts, state)
    for seen in (pages, Pages(tmp_path)):
        assert texts_of(seen) == [*TEXTS, "last"]
        assert (seen.documents, seen.states) == (5, states)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number:06}.jsonl.gz" for number in range(3)]


def test_fetch_goes_on_where_it_stopped_and_never_asks_for_what_is_there(tmp_path):
    source = Source(10)
    for wanted in (1, 3, 2, 4, 6, 100, 100, None):
        Pages(tmp_path).fetch(wanted, source.more)
    assert texts_of(Pages(tmp_path)) == list("0123456789")
    assert (source.asked, source.given) == ([0, 3, 6], 4)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch, error):
    def full(descriptor):
        raise error

    pages = Pages(tmp_path)
    pages.append(["kept"], {})
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises((UserError, KeyboardInterrupt)) as raised:
            pages.append(["lost"], {})
    if isinstance(error, OSError):
        assert "cannot be written (No space left on device); what was fetched before is kept" in str(raised.value)
    assert (pages.documents, pages.states) == (1, [{}])
    assert [path.name for path in tmp_path.iterdir()] == ["000000.jsonl.gz"]
    pages.append(["after"], {})
    assert texts_of(Pages(tmp_path)) == ["kept", "after"]


DAMAGE = {
    "twice the same": lambda path: path.write_bytes(2 * path.read_bytes()),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"garbage " * 100),
    "foreign": lambda path: path.write_bytes(gzip.compress(b"not ours")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_page_is_named(tmp_path, damage):
    pages = Pages(tmp_path)
    for number in range(3):
        pages.append([str(number)], {})
    DAMAGE[damage](tmp_path / "000001.jsonl.gz")
    with pytest.raises(UserError, match=r"000001\.jsonl.gz: damaged \(.*delete the folder .* and fetch again"):
        Pages(tmp_path)


def test_any_wrong_byte_is_noticed_or_harmless(tmp_path):
    text = "This is a story of which every byte counts."
    Pages(tmp_path).append([text], {})
    path = tmp_path / "000000.jsonl.gz"
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        try:  # some bytes say nothing
            assert texts_of(Pages(tmp_path)) == [text]
        except UserError as error:
            assert "damaged" in str(error)

import hashlib
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import needs
import pytest
from loopback import Response, Server
from shared import SHARED

from nanogpt.data.sources import shakespeare
from nanogpt.data.sources.document import DataSettings
from nanogpt.data.sources.shakespeare import ShakespeareSettings
from nanogpt.runtime.errors import BadSetting, UserError

REAL = SHARED / "corpora" / "tinyshakespeare.txt"
TEXT = "\n  First Citizen:\r\nBefore we proceed, hear me\u2028speak — naïve!\n\n" * 100 + "no line end \t "


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """What is fetched lies in the test's own folder; no proxy is asked, and pooch does not wait between its tries."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture
def small(monkeypatch):
    """A text of some kilobytes takes the place of the real one."""
    monkeypatch.setattr(shakespeare, "SIZE", len(TEXT.encode()))
    monkeypatch.setattr(shakespeare, "SHA256", hashlib.sha256(TEXT.encode()).hexdigest())


@pytest.fixture
def server():
    """Serves the small text at every address, or what the test puts in the place of `server.site`."""
    with Server(lambda request: Response(TEXT.encode())) as server:
        yield server


def load(url: str, documents: int | None = None):
    return shakespeare.load(
        DataSettings("shakespeare", documents, 0.1, "", "*", "text", "text"), ShakespeareSettings(url)
    )


def whole(corpus) -> str:
    return "".join(document.text for document in corpus.documents(Counter()))


def folder(tmp_path) -> Path:
    """Where the file lies once it was asked for."""
    (found,) = tmp_path.glob(".work/corpora/shakespeare-*")
    return found


def assert_is_for_people(url: str, path: Path, error: UserError) -> None:
    """One line that names the address, says what to do and where to put the file; no traceback below it."""
    assert re.fullmatch(rf"{url}: .*; check the network .* data\.shakespeare\.url .* or put the file .*", str(error))
    assert str(path) in str(error)
    assert error.__suppress_context__


@needs.real_text
def test_the_real_text_and_its_well_known_split(server):
    server.site = lambda request: Response(REAL.read_bytes())
    corpus = load(server.url)
    train, val = corpus.documents(Counter())
    assert (len(train.text), len(val.text)) == (1_003_854, 111_540)  # as nanoGPT counts them
    assert train.text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n")
    assert (train.text + val.text).encode() == REAL.read_bytes()
    assert corpus.revision == f"sha256:{hashlib.sha256(REAL.read_bytes()).hexdigest()}"


def test_two_documents_whatever_is_asked_for(small, server):
    corpus = load(server.url, 1000)
    train, val = corpus.documents(Counter())
    assert (train.split, val.split) == ("train", "val")
    assert len(train.text) == int(0.9 * len(TEXT))
    assert train.text + val.text == TEXT
    assert list(corpus.documents(Counter())) == [train, val]


def test_put_there_by_hand(small, server):
    server.fail("/", "503", times=1000)
    with pytest.raises(UserError) as failed:
        load(server.url)
    path = Path(re.search(r" at (\S+)$", str(failed.value))[1])
    path.write_bytes(TEXT.encode())
    server.requests.clear()
    assert whole(load(server.url)) == TEXT
    assert not server.requests


def test_a_damaged_file_is_fetched_again(small, server, tmp_path):
    load(server.url)
    path = folder(tmp_path) / "input.txt"
    path.write_bytes(TEXT.replace("me", "ME").encode())
    server.fail("/", "503", times=1000)
    with pytest.raises(UserError, match="where another or a damaged one lies now") as failed:
        load(server.url)
    assert_is_for_people(server.url, path, failed.value)
    server.heal()
    assert whole(load(server.url)) == TEXT
    assert path.read_bytes() == TEXT.encode()


@pytest.mark.parametrize("fault", ["stalled", "cut"])
def test_a_hiccup_is_ridden_out(small, server, monkeypatch, fault):
    monkeypatch.setattr(shakespeare, "TIMEOUT_S", 1 if fault == "stalled" else 5)
    server.fail("/", fault, times=2)
    assert whole(load(server.url)) == TEXT


@pytest.mark.parametrize(
    ("fault", "what"),
    {
        "429": "429 Client Error",
        "stalled": "Read timed out",
        "cut": "IncompleteRead",
        "wrong": "SHA256 hash of downloaded file .* does not match",
    }.items(),
)
def test_a_lasting_fault_is_one_message_and_leaves_nothing(small, server, tmp_path, monkeypatch, fault, what):
    monkeypatch.setattr(shakespeare, "TIMEOUT_S", 0.2 if fault == "stalled" else 5)
    server.fail("/", fault, times=1000)
    with pytest.raises(UserError, match=what) as failed:
        load(server.url)
    assert_is_for_people(server.url, folder(tmp_path) / "input.txt", failed.value)
    assert list(folder(tmp_path).iterdir()) == []
    server.heal()
    assert whole(load(server.url)) == TEXT


@pytest.mark.parametrize("url", ["", "raw.githubusercontent.com/input.txt", "file:///tmp/input.txt", "http://a b"])
def test_an_address_that_is_none(url):
    with pytest.raises(BadSetting, match=r"url = .* not a web address"):
        ShakespeareSettings(url)


def test_an_answer_that_does_not_end_is_cut_off(small, server, tmp_path):
    server.site = lambda request: Response(TEXT.encode() * 200, length=10**12)
    with pytest.raises(UserError, match="more than the"):  # read on, it would be a connection that breaks off
        load(server.url)
    assert list(folder(tmp_path).iterdir()) == []

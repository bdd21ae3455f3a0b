import itertools
import re
import time
from collections import Counter
from dataclasses import replace

import pytest
from atom_feed import Arxiv, paper, text
from loopback import Response, Server

from nanogpt.data.sources import arxiv_api
from nanogpt.data.sources.arxiv_api import ArxivSettings, load
from nanogpt.data.sources.document import DataSettings
from nanogpt.runtime.errors import BadSetting, UserError


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Ten papers a page, what is fetched lies in the test's own folder, and no proxy is asked."""
    monkeypatch.setattr(arxiv_api, "PAGE", 10)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def arxiv():
    return Arxiv([paper(n) for n in range(25)])


@pytest.fixture
def server(arxiv):
    """Answers as `arxiv` does, or as what the test puts in the place of `server.site`."""
    with Server(arxiv) as server:
        yield server


def own(server, **changed) -> ArxivSettings:
    values = {"category": "cs.CL", "query": "", "url": f"{server.url}/api/query", "delay_s": 0.0}
    return ArxivSettings(**values | changed)


def corpus(server, documents: int, **changed):
    return load(DataSettings("arxiv_api", documents, 0.1, "", "*", "text", "text"), own(server, **changed))


def texts(server, documents: int, **changed) -> list[str]:
    return [document.text for document in corpus(server, documents, **changed).documents(Counter())]


def skipped(server, documents: int) -> dict[str, int]:
    counted = Counter()
    list(corpus(server, documents).documents(counted))
    return dict(counted)


def papers(count: int) -> list[str]:
    return [text(n) for n in range(count)]


def test_titles_and_abstracts_in_the_order_of_submission(arxiv, server):
    arxiv.papers.reverse()
    assert texts(server, 20) == papers(20)
    assert texts(server, 20)[3] == "Paper 3: a < b & c\n\nWe study 3. So."
    assert arxiv.starts == [0, 10]


@pytest.mark.parametrize(
    ("category", "query", "sent"),
    [
        ("cs.CL", "", "cat:cs.CL"),
        ("", " ti:cats OR ti:dogs ", "ti:cats OR ti:dogs"),
        ("hep-th", 'abs:"a & b" OR ti:c', 'cat:hep-th AND (abs:"a & b" OR ti:c)'),
        ("cs.*", "ti:é", "cat:cs.* AND (ti:é)"),
    ],
)
def test_the_query_sent(arxiv, server, category, query, sent):
    texts(server, 2, category=category, query=query)
    assert arxiv.asked[0]["search_query"] == sent
    assert arxiv.asked[0]["sortOrder"] == "ascending"


def test_more_asked_for_later_only_adds(arxiv, server):
    assert texts(server, 12) == papers(12)
    assert texts(server, 4) == papers(4)
    assert arxiv.starts == [0, 10]
    arxiv.papers.append(paper(25))  # a new one, meanwhile
    assert texts(server, 100) == papers(26)
    assert arxiv.starts == [0, 10, 20]


def test_papers_that_come_again_are_dropped_across_pages_and_restarts(arxiv, server):
    again = [paper(2, day=5, version=3), paper(5, day=24, version=2), paper(26, id="2101.00007", day=26)]
    arxiv.papers += again
    arxiv.papers.append(paper(27, id="cs/9901001", day=27))
    arxiv.papers.append(paper(28, id="cs/9901001", day=28, version=2))
    assert texts(server, 9) == papers(9)
    assert texts(server, 100) == [*papers(25), text(27)]
    assert skipped(server, 100) == {"repeated id": 4}
    assert skipped(server, 9) == {"repeated id": 1}  # as it was before the later pages came
    assert arxiv.starts == [0, 10, 20]


def test_papers_without_title_or_abstract_are_passed_over(arxiv, server):
    arxiv.papers[3] = paper(3, title="\n ")
    arxiv.papers[14] = paper(14, summary="")
    assert texts(server, 100) == [text(n) for n in range(25) if n not in (3, 14)]
    assert skipped(server, 100) == {"no title or no abstract": 2}


def test_the_delay_lies_between_all_requests(arxiv, server):
    times = []

    def site(request):
        times.append(time.monotonic())
        return arxiv(request)

    server.site = site
    server.fail(r"start=0&", "503")
    server.fail(r"start=10&", "cut")
    texts(server, 15, delay_s=0.2)
    texts(server, 25, delay_s=0.2)  # a restart in the same second
    assert arxiv.starts == [0, 0, 10, 10, 20]
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= 0.2


@pytest.mark.parametrize(
    ("fault", "what"),
    {
        "429": "429 Client Error",
        "stalled": "Read timed out",
        "short": "no whole page of results: .* line .*it begins .*xml version",
        "garbage": "not an Atom feed .it begins '<html>login here</html>'",
    }.items(),
)
def test_a_lasting_fault_is_one_message_and_the_next_run_goes_on(arxiv, server, monkeypatch, fault, what):
    server.fail(r"start=10&", fault, times=1000)
    with monkeypatch.context() as patch, pytest.raises(UserError, match=what) as failed:
        if fault == "stalled":
            assert texts(server, 10) == papers(10)
            patch.setattr(arxiv_api, "TIMEOUT_S", 0.2)
        texts(server, 25)
    assert_is_for_people(server, failed.value)
    server.heal()
    del arxiv.asked[:]
    assert texts(server, 25) == papers(25)
    assert arxiv.starts == [10, 20]


def assert_is_for_people(server, error: UserError) -> None:
    """One line that names the address and says what to do; no traceback of a library below it."""
    assert re.fullmatch(rf"arXiv \({server.url}/api/query\): .*run the same command again: .*", str(error))
    assert not error.__context__


@pytest.mark.parametrize("denies", [False, True])
def test_an_answer_without_papers_is_not_the_end(arxiv, server, denies):
    arxiv.denies = denies
    arxiv.empty = 2
    assert texts(server, 10) == papers(10)
    arxiv.empty = 2
    assert texts(server, 20) == papers(20)
    arxiv.empty = 1000
    with pytest.raises(UserError, match="no papers in it") as failed:
        texts(server, 25)
    assert_is_for_people(server, failed.value)
    arxiv.empty = 0
    assert texts(server, 25) == papers(25)


def test_no_paper_at_all(arxiv, server):
    del arxiv.papers[:]
    with pytest.raises(UserError, match=r"no paper matches 'cat:cs\.CL', it says; change data\.arxiv_api\.category"):
        texts(server, 25)


def test_an_answer_that_contradicts_itself(arxiv, server):
    server.site = lambda request: Response(arxiv(request).body.replace(b">25<", b">15<"))
    assert texts(server, 10) == papers(10)
    with pytest.raises(UserError, match="papers 10 to 20 of 15") as failed:
        texts(server, 25)
    assert_is_for_people(server, failed.value)


@pytest.mark.parametrize("status", [200, 400])
def test_a_query_that_arxiv_refuses(arxiv, server, status):
    arxiv.refusal = "unbalanced parentheses"
    server.site = lambda request: replace(arxiv(request), status=status)
    with pytest.raises(UserError, match=r"refuses 'cat:cs\.CL AND \(\(\)': unbalanced .*data\.arxiv_api\.query"):
        texts(server, 25, query="(")
    assert len(arxiv.asked) == 1


def test_more_than_the_api_serves_is_refused_at_once(arxiv, server):
    with pytest.raises(UserError, match=r"= 30001: .* 30000 results .*data\.<role>\.source: scientific_papers"):
        texts(server, 30001)
    assert arxiv.starts == []


def test_what_the_api_serves_may_end_before_the_results(arxiv, server, monkeypatch):
    monkeypatch.setattr(arxiv_api, "LIMIT", 15)
    arxiv.papers[3] = paper(3, title="")
    for _ in range(2):
        assert texts(server, 15) == [text(n) for n in range(15) if n != 3]
    assert [asked["max_results"] for asked in arxiv.asked] == ["10", "5"]


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"category": ""}, "category = '': empty, as query is; set one of them, like category: cs.CL"),
        ({"category": "cs.CL cs.LG"}, "category = .* not the name of one category; .*query: cat:cs.CL OR cat:cs.LG"),
        ({"url": "export.arxiv.org/api/query"}, "url = .* use https://export.arxiv.org/api/query"),
        ({"delay_s": 2.9}, "delay_s = 2.9: too short for this server; choose 3.0 or more"),
        ({"delay_s": 0.0, "url": "http://arxiv.org:80/api/query"}, "delay_s = 0.0: .* choose 3.0 or more"),
        ({"delay_s": -1.0, "url": "http://myarxiv.org/api"}, "delay_s = -1.0: .* choose 0.0 or more"),
    ],
)
def test_settings_that_cannot_work(changed, complaint):
    good = {"category": "cs.CL", "query": "", "url": "https://export.arxiv.org/api/query", "delay_s": 3.0}
    ArxivSettings(**good)
    with pytest.raises(BadSetting, match=complaint):
        ArxivSettings(**good | changed)

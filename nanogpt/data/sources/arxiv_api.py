"""Titles and abstracts from arXiv's own API, by category and query: slow, and as new as today.

Papers come in the order of their submission, so that new ones only add to the end. One answer of the
API is one page of `Pages`; a run that is cut short loses that one at most, and the next goes on after
the last whole one. The `arxiv` package asks, tries again and reads; what it would take on trust is
checked here before it reads: it mends an Atom feed that breaks off, and takes any answer without papers
for the end of the results. https://info.arxiv.org/help/api/user-manual.html
"""

import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

from nanogpt.data.sources.document import Corpus, DataSettings, Document
from nanogpt.data.sources.network import describe_failure
from nanogpt.data.sources.pages import Pages
from nanogpt.runtime.errors import BadSetting, UserError
from nanogpt.runtime.workdir import work_folder

if TYPE_CHECKING:
    import requests

LIMIT = 30_000  # results of one query that the API serves (manual, 3.1.1.2)
PAGE = 500  # results a request: 2000 are allowed, and fewer arrive more reliably
RETRIES = 3
TIMEOUT_S = 15.0  # for a connection, and between two pieces of an answer
MIN_DELAY_S = 3.0  # https://info.arxiv.org/help/api/tou.html
ATOM, OPENSEARCH = "{http://www.w3.org/2005/Atom}", "{http://a9.com/-/spec/opensearch/1.1/}"


@dataclass(frozen=True)
class ArxivSettings:
    """Section `data.arxiv_api` of params.yaml."""

    category: str
    query: str
    url: str
    delay_s: float

    def __post_init__(self) -> None:
        if not self.search:
            raise BadSetting("category", self.category, "empty, as query is", "set one of them, like category: cs.CL")
        if self.category and not re.fullmatch(r"[A-Za-z-]+(\.([A-Za-z-]+|\*))?", self.category):
            raise BadSetting(
                "category",
                self.category,
                "not the name of one category",
                'choose one of https://arxiv.org/category_taxonomy; for several write category: "" and '
                "query: cat:cs.CL OR cat:cs.LG",
            )
        if not re.fullmatch(r"https?://[^\s?#{}\[\]]+", self.url):
            raise BadSetting("url", self.url, "not a plain web address", "use https://export.arxiv.org/api/query")
        host = urlsplit(self.url).hostname or ""
        least = MIN_DELAY_S if f".{host}".endswith(".arxiv.org") else 0.0
        if self.delay_s < least:
            raise BadSetting(
                "delay_s",
                self.delay_s,
                "more requests than arXiv's terms of use allow" if least else "a negative time",
                f"choose {least} or more",
            )

    @property
    def search(self) -> str:
        """The query in the API's language; "" where there is nothing to search for."""
        category, query = self.category and f"cat:{self.category}", self.query.strip()
        return f"{category} AND ({query})" if category and query else category or query


def load(settings: DataSettings, api: ArxivSettings) -> Corpus:
    """The first `num_samples` papers that match, or all where there are fewer; fetches those that are missing.

    A document is a title and an abstract, each on one line, joined by an empty one. A paper that came
    before and one that lacks either are passed over and counted. Once all results are there, or the 30000
    that the API serves, no more are asked for. Raises UserError where arXiv does not answer, or not as
    it should; what was fetched is kept.
    """
    if settings.num_samples > LIMIT:
        raise UserError(
            f"data.<role>.num_samples = {settings.num_samples}: arXiv's API serves {LIMIT} results of one query at "
            "most; ask for fewer, or set data.<role>.source: scientific_papers, which has 2 million"
        )
    identity = {"category": api.category, "query": api.query, "url": api.url}
    pages = Pages(work_folder("corpora", "arxiv_api", identity))
    pages.fetch(settings.num_samples, lambda states: _more(api, states))

    def documents(skipped: Counter[str]) -> Iterator[Document]:
        missing = settings.num_samples
        for state in pages.states:
            if missing > 0:  # a page fetched for a larger corpus does not count
                skipped.update(state["skipped"])
                missing -= len(state["ids"])
        yield from map(Document, itertools.islice(pages.texts(), settings.num_samples))

    return Corpus(f"arXiv API: {api.search}", "CC0-1.0 (arXiv metadata)", documents)


def _more(api: ArxivSettings, states: list[dict]) -> Iterator[tuple[list[str], dict]]:
    """The texts and the state of each answer from where `states` end.

    A state says the offset to go on from, the number of results, the ids of the texts, and how many papers
    were passed over.
    """
    import arxiv  # these two are slow to import, and few corpora need them
    import requests

    client = arxiv.Client(delay_seconds=0, num_retries=RETRIES)  # the session keeps the delay
    client.query_url_format = api.url + "?{}"
    client._session = session = _Session(api, max((state["total"] for state in states), default=0))
    order = {"sort_by": arxiv.SortCriterion.SubmittedDate, "sort_order": arxiv.SortOrder.Ascending}
    search = arxiv.Search(api.search, max_results=None, **order)
    offset = states[-1]["offset"] if states else 0
    seen = {paper for state in states for paper in state["ids"]}
    end = False
    while not end:
        client.page_size = min(PAGE, LIMIT - offset)
        results = client.results(search, offset)
        try:  # one answer and no more: the client would ask for the next one after it
            page = [next(results), *itertools.islice(results, session.papers - 1)]
        except (arxiv.ArxivError, requests.RequestException, ValueError) as error:  # ValueError: a date
            if offset == session.total == session.papers == 0:
                raise UserError(f"arXiv ({api.url}): no paper matches {api.search!r}, it says; {_CHANGE}") from None
            what = f"HTTP status {error.status}" if isinstance(error, arxiv.HTTPError) else error
            raise UserError(
                f"arXiv ({api.url}): {what}; check the network and data.arxiv_api.url, or wait some minutes, then "
                "run the same command again: what was fetched is kept"
            ) from None
        offset += len(page)  # also where the answer is shorter than asked for, as some are
        end = offset >= min(session.total, LIMIT)
        texts, ids, skipped = [], [], Counter()
        for result in page:
            paper = re.sub(r"v\d+$", "", result.get_short_id())
            title, abstract = (" ".join(part.split()) for part in (result.title, result.summary))
            if paper in seen:
                skipped["repeated id"] += 1
            elif not title or not abstract:
                skipped["no title or no abstract"] += 1
            else:
                seen.add(paper)
                ids.append(paper)
                texts.append(f"{title}\n\n{abstract}")
        yield texts, {"offset": offset, "total": session.total, "ids": ids, "skipped": skipped, "end": end}


_CHANGE = "change data.arxiv_api.category or data.arxiv_api.query"


class _Session:
    """In place of the client's: does not wait for ever, and passes on no answer but a whole one with papers in it.

    The delay is kept over retries and restarts too. What goes wrong is raised as ConnectionError, since
    after that the client tries again. `total` is the number of results of the query as the last answer
    gave it, None if there was none, and `papers` that of the papers in the answer; `most` is the largest
    total so far.
    """

    def __init__(self, api: ArxivSettings, most: int):
        self._own, self._most = api, most
        self.total, self.papers = None, 0
        self._next = time.monotonic() + api.delay_s  # a run before this one may just have ended

    def get(self, url: str, headers: dict) -> "requests.Response":
        """The answer, read to its end."""
        import requests

        self.total, self.papers = None, 0
        time.sleep(max(0.0, self._next - time.monotonic()))
        try:
            with requests.Session() as session:
                session.max_redirects = 3
                response = session.get(url, headers=headers, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            raise requests.ConnectionError(describe_failure(error, TIMEOUT_S)) from None
        finally:
            self._next = time.monotonic() + self._own.delay_s
        if response.status_code in (200, 400):
            try:
                self._check(url, response.content)
            except (ElementTree.ParseError, ValueError) as error:
                begin = response.content[:50].decode(errors="replace")
                raise requests.ConnectionError(f"no whole page of results: {error} (it begins {begin!r})") from None
        return response

    def _check(self, url: str, content: bytes) -> None:
        feed = ElementTree.fromstring(content)
        if feed.tag != f"{ATOM}feed":
            raise ValueError("not an Atom feed")
        entries = feed.findall(f"{ATOM}entry")
        for entry in entries:
            if "/api/errors" in entry.findtext(f"{ATOM}id", ""):
                reason = entry.findtext(f"{ATOM}summary", "").strip()
                raise UserError(f"arXiv ({self._own.url}) refuses {self._own.search!r}: {reason}; {_CHANGE}")
            if not all(entry.findtext(ATOM + name) for name in ("id", "published", "updated")):
                raise ValueError("a paper has no id or no date")
        self.papers = len(entries)
        self.total, start = (int(feed.findtext(OPENSEARCH + name, "")) for name in ("totalResults", "startIndex"))
        asked = int(parse_qs(urlsplit(url).query)["start"][0])
        if start != asked:
            raise ValueError(f"it starts at result {start} instead of {asked}")
        if not entries:
            raise ValueError("there are no papers in it")
        if start + len(entries) > self.total:
            raise ValueError(f"paper {start + len(entries)} of {self.total}")
        self._most = max(self._most, self.total)
        if self.total < 0.9 * self._most:  # a few papers may leave a category; more are a fault of the moment
            raise ValueError(f"{self.total} results, which were {self._most} before")

"""Titles and abstracts from arXiv's own API, by category and query: slow, and as new as today.

Papers come in the order of their submission, so that new ones only add to the end. One answer of the API is one page
of `Pages`. An answer that breaks off, contradicts itself or has no papers in it is requested again: it is not taken for
the end of the results. https://info.arxiv.org/help/api/user-manual.html
"""

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated
from urllib.parse import urlsplit
from xml.etree import ElementTree

from nanogpt.data.sources.document import Corpus, DataSettings
from nanogpt.data.sources.pages import Pages
from nanogpt.runtime.errors import BadSetting, UserError, shorten
from nanogpt.runtime.ranges import CheckedSettings, Require
from nanogpt.runtime.workdir import work_folder

LIMIT = 30_000  # results of one query that the API serves (manual, 3.1.1.2)
PAGE = 500  # results a request: 2000 are allowed, and fewer arrive more reliably
RETRIES = 3
TIMEOUT_S = 15.0  # for a connection, and between two pieces of an answer
MIN_DELAY_S = 3.0  # https://info.arxiv.org/help/api/tou.html
CHANGE = "change data.arxiv_api.category or data.arxiv_api.query"
ATOM, OPENSEARCH = "{http://www.w3.org/2005/Atom}", "{http://a9.com/-/spec/opensearch/1.1/}"


CATEGORY = Require(
    lambda text: re.fullmatch(r"([A-Za-z-]+(\.([A-Za-z-]+|\*))?)?", text),
    "not the name of one category",
    "choose one of https://arxiv.org/category_taxonomy, or for several leave it empty and write query: cat:cs.CL OR "
    "cat:cs.LG",
)
URL = Require(
    lambda url: re.fullmatch(r"https?://[^\s?#{}\[\]]+", url),
    "not a plain web address",
    "use https://export.arxiv.org/api/query",
)


@dataclass(frozen=True)
class ArxivSettings(CheckedSettings):
    """Section `data.arxiv_api` of params.yaml."""

    category: Annotated[str, CATEGORY]
    query: str
    url: Annotated[str, URL]
    delay_s: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.search:
            raise BadSetting("category", self.category, "empty, as query is", "set one of them, like category: cs.CL")
        least = MIN_DELAY_S if f".{urlsplit(self.url).hostname}".endswith(".arxiv.org") else 0.0
        if self.delay_s < least:
            raise BadSetting("delay_s", self.delay_s, "too short for this server", f"choose {least} or more")

    @property
    def search(self) -> str:
        """The query in the API's language; "" where there is nothing to search for."""
        category, query = self.category and f"cat:{self.category}", self.query.strip()
        return f"{category} AND ({query})" if category and query else category or query


def load(settings: DataSettings, api: ArxivSettings) -> Corpus:
    """Fetch what is missing of the first `num_samples` papers that match, or of all where there are fewer.

    A document is a title and an abstract, each on one line, joined by an empty one. A paper that came
    before and one that lacks either are skipped and counted. Once all results are there, or the 30000
    that the API serves, no more are requested. Raises UserError where arXiv does not answer, or not as
    it should; what was fetched is kept.
    """
    if settings.num_samples > LIMIT:
        raise UserError(
            f"data.<role>.num_samples = {settings.num_samples}: arXiv's API serves {LIMIT} results of one query at "
            "most; ask for fewer, or set data.<role>.source: scientific_papers, which has 2 million"
        )
    identity = {"category": api.category, "query": api.query, "url": api.url}
    pages = Pages(work_folder("corpora", "arxiv_api", identity))
    pages.fetch(settings.num_samples, lambda states: _fetch_pages(api, states))

    documents = partial(pages.read_documents, settings.num_samples)
    return Corpus(f"arXiv API: {api.search}", "CC0-1.0 (arXiv metadata)", documents)


def _fetch_pages(api: ArxivSettings, states: list[dict]) -> Iterator[tuple[list[str], dict]]:
    """Yield the texts and the state of each answer from where `states` end.

    A state says the offset to continue from, the ids of the texts, and how many papers were skipped.
    """
    offset = states[-1]["offset"] if states else 0
    seen = {paper for state in states for paper in state["ids"]}
    end, request_at = False, time.monotonic() + api.delay_s  # a run before this one may just have ended
    while not end:
        for _ in range(1 + RETRIES):
            time.sleep(max(0.0, request_at - time.monotonic()))
            total, entries, failure = None, [], "no papers in it"
            try:
                total, entries = _request_page(api, offset)
            except OSError as error:  # what requests raises is an OSError
                failure = shorten(error, 300)
            request_at = time.monotonic() + api.delay_s
            if entries:
                break
        else:
            if offset == total == 0:
                raise UserError(f"arXiv ({api.url}): no paper matches {api.search!r}, it says; {CHANGE}")
            raise UserError(
                f"arXiv ({api.url}): {failure}; check the network and data.arxiv_api.url, or wait some minutes, then "
                "run the same command again: what was fetched is kept"
            )
        offset += len(entries)  # also where the answer is shorter than asked for, as some are
        end = offset >= min(total, LIMIT)
        texts, ids, skipped = [], [], Counter()
        for entry in entries:
            paper = re.sub(r"v\d+$", "", entry.findtext(f"{ATOM}id").rpartition("/abs/")[2])
            title, abstract = (" ".join(entry.findtext(ATOM + name, "").split()) for name in ("title", "summary"))
            if paper in seen:
                skipped["repeated id"] += 1
            elif not title or not abstract:
                skipped["no title or no abstract"] += 1
            else:
                seen.add(paper)
                ids.append(paper)
                texts.append(f"{title}\n\n{abstract}")
        yield texts, {"offset": offset, "ids": ids, "skipped": skipped, "end": end}


def _request_page(api: ArxivSettings, offset: int) -> tuple[int, list[ElementTree.Element]]:
    """One answer: the number of results of the query, and the entries of the papers in it.

    Raises requests' exceptions where the answer is not whole or contradicts itself, UserError where arXiv refuses the
    query.
    """
    import requests  # slow to import, and few corpora need it

    query = {"search_query": api.search, "sortBy": "submittedDate", "sortOrder": "ascending"}
    query |= {"start": offset, "max_results": min(PAGE, LIMIT - offset)}
    response = requests.get(api.url, params=query, timeout=TIMEOUT_S)
    if response.status_code != 400:  # with which a query is refused, in a feed
        response.raise_for_status()
    try:
        feed = ElementTree.fromstring(response.content)
        if feed.tag != f"{ATOM}feed":
            raise ValueError("not an Atom feed")
        entries = feed.findall(f"{ATOM}entry")
        ids = [entry.findtext(f"{ATOM}id", "") for entry in entries]
        if any("/api/errors" in id_ for id_ in ids):
            reason = entries[0].findtext(f"{ATOM}summary", "").strip()
            raise UserError(f"arXiv ({api.url}) refuses {api.search!r}: {reason}; {CHANGE}")
        total, start = (int(feed.findtext(OPENSEARCH + name, "")) for name in ("totalResults", "startIndex"))
        last = offset + len(entries)
        if not all(ids) or start != offset or last > total > 0:
            raise ValueError(f"papers {start} to {last} of {total} where {offset} was asked for")
    except (ElementTree.ParseError, ValueError) as error:
        begin = response.content[:50].decode(errors="replace")
        raise requests.ConnectionError(f"no whole page of results: {error} (it begins {begin!r})") from None
    return total, entries

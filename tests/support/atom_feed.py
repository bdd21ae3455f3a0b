"""arXiv's API on the loopback address: Atom feeds as export.arxiv.org serves them.

arxiv = Arxiv([paper(n) for n in range(25)])
with Server(arxiv) as server:
    run(url=server.url + "/api/query")
"""

from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from loopback import Request, Response


@dataclass(frozen=True)
class Paper:
    """What an entry shows; `day` counts the days of 2021 on which papers were submitted."""

    id: str
    day: int
    title: str
    summary: str
    version: int = 1


def paper(n: int, **changed) -> Paper:
    """The n-th paper, its title and abstract broken into lines as arXiv does it."""
    text = {"title": f"Paper {n}:\n  a < b & c", "summary": f"  We study {n}.\n  So.\n"}
    return Paper(**{"id": f"2101.{n:05}", "day": n} | text | changed)


def text(n: int) -> str:
    """The document that `paper(n)` becomes."""
    return f"Paper {n}: a < b & c\n\nWe study {n}. So."


@dataclass
class Arxiv:
    """Answers requests for `papers`, whatever the query is.

    The next `empty` answers have no papers in them, and say that there are none where `denies`; an answer
    has `most` papers at most. Where `refusal` is set, it is the answer to every query.
    """

    papers: list[Paper]
    empty: int = 0
    denies: bool = False
    most: int = 2000
    refusal: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, request: Request) -> Response:
        """The answer to one request."""
        asked = {name: values[-1] for name, values in parse_qs(urlsplit(request.path).query).items()}
        self.asked.append(asked)
        if self.refusal:
            return _feed(asked, 1, _error(self.refusal))
        assert asked["sortBy"] == "submittedDate"
        found = sorted(self.papers, key=lambda paper: paper.day, reverse=asked["sortOrder"] == "descending")
        start, wanted = int(asked["start"]), int(asked["max_results"])
        assert wanted <= 2000 and start + wanted <= 30000
        if self.empty:
            self.empty -= 1
            return _feed(asked, 0 if self.denies else len(found), "")
        return _feed(asked, len(found), "".join(map(_entry, found[start:][: min(wanted, self.most)])))

    @property
    def starts(self) -> list[int]:
        """The offset of every request so far."""
        return [int(asked["start"]) for asked in self.asked]


def _feed(asked: dict[str, str], total: int, entries: str) -> Response:
    query = escape("&".join(f"{name}={value}" for name, value in asked.items()), {'"': "&quot;"})
    feed = f"""<?xml version='1.0' encoding='UTF-8'?>
<feed xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/" xmlns:arxiv="http://arxiv.org/schemas/atom" xmlns="http://www.w3.org/2005/Atom">
  <id>https://arxiv.org/api/SkuXkYxumgL1drFIL7NufdnpkFc</id>
  <title>arXiv Query: {query}</title>
  <updated>2026-01-01T00:00:00Z</updated>
  <link href="https://arxiv.org/api/query?{query}" type="application/atom+xml"/>
  <opensearch:itemsPerPage>{asked["max_results"]}</opensearch:itemsPerPage>
  <opensearch:totalResults>{total}</opensearch:totalResults>
  <opensearch:startIndex>{asked["start"]}</opensearch:startIndex>
{entries}</feed>
"""
    return Response(feed.encode(), headers={"Content-Type": "application/atom+xml; charset=utf-8"})


def _entry(paper: Paper) -> str:
    submitted = f"2021-{1 + paper.day // 28:02}-{1 + paper.day % 28:02}T12:00:00Z"
    address = f"http://arxiv.org/abs/{paper.id}v{paper.version}"
    return f"""  <entry>
    <id>{address}</id>
    <title>{escape(paper.title)}</title>
    <updated>2025-12-31T00:00:00Z</updated>
    <summary>{escape(paper.summary)}</summary>
    <category term="cs.CL" scheme="http://arxiv.org/schemas/atom"/>
    <published>{submitted}</published>
    <author><name>A. Author</name></author>
  </entry>
"""


def _error(reason: str) -> str:
    return f"""  <entry>
    <id>https://arxiv.org/api/errors#{reason.replace(" ", "_")}</id>
    <title>Error</title>
    <summary>{reason}</summary>
  </entry>
"""

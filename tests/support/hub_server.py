"""A small hub of data sets on the loopback address, which answers what `datasets` asks of the real one.

hub = Hub()
first = hub.commit("someone/stories", {"README.md": b"...", "data/train.parquet": b"..."})
with hub.serve() as server:
    run(HF_ENDPOINT=server.url)
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from loopback import NOT_FOUND, Request, Response, Server
from ruamel.yaml import YAML

SMALL = 1000  # bytes: larger files are kept elsewhere, as the hub does, and reached by a redirect


@dataclass
class Repo:
    """A repository: the files of every commit, the commit of every branch, and the status of who may not see it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    refused: int | None = None  # 401: private, 403: gated


class Hub:
    """The repositories, and the answers to requests for them."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self._blobs: dict[str, bytes] = {}

    def commit(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Make `files` the newest state of a branch; returns the commit."""
        repo = self.repos.setdefault(name, Repo())
        content = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
        sha = hashlib.sha1(json.dumps([name, len(repo.commits), content]).encode()).hexdigest()
        self._blobs |= {content[path]: data for path, data in files.items()}
        repo.commits[sha], repo.branches[branch] = files, sha
        return sha

    def serve(self) -> Server:
        """A server of these repositories."""
        return Server(self)

    def __call__(self, request: Request) -> Response:
        """The answer to one request."""
        path = unquote(urlsplit(request.path).path)
        if found := re.fullmatch(r"/blobs/(\w+)", path):
            return _file(self._blobs[found[1]], request, {})
        if found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._at(found[1], found[2]) or self._resolve(found[1], found[2], found[3], request)
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/(revision|tree|paths-info)/([^/]+)/?(.*)", path):
            name, kind, revision, below = found.groups()
            if refused := self._at(name, revision):
                return refused
            if kind == "revision":
                return self._info(name, revision)
            if kind == "tree":
                return self._tree(name, revision, below, "recursive=true" in request.path.lower())
            wanted = parse_qs(request.body.decode())["paths"]
            entries = _entries(self._files(name, revision))
            return _json([entry for entry in entries if entry["path"] in wanted])
        return NOT_FOUND

    def _at(self, name: str, revision: str) -> Response | None:
        """The answer where there is nothing to see."""
        repo = self.repos.get(name)
        if repo is None or repo.refused == 401:  # the hub does not tell the two apart
            return Response(b"", 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        if repo.refused == 403:
            return Response(b"", 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        if revision not in repo.branches and revision not in repo.commits:
            return Response(b"", 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        return None

    def _sha(self, name: str, revision: str) -> str:
        return self.repos[name].branches.get(revision, revision)

    def _files(self, name: str, revision: str) -> dict[str, bytes]:
        return self.repos[name].commits[self._sha(name, revision)]

    def _info(self, name: str, revision: str) -> Response:
        files = self._files(name, revision)
        head = files.get("README.md", b"").decode().split("---\n")
        card = YAML(typ="safe").load(head[1]) if len(head) > 2 else {}
        siblings = [{"rfilename": path} for path in files]
        about = {"id": name, "sha": self._sha(name, revision), "cardData": card, "siblings": siblings}
        return _json(about | {"private": False, "gated": False, "tags": [], "downloads": 0, "likes": 0})

    def _tree(self, name: str, revision: str, below: str, recursive: bool) -> Response:
        entries = _entries(self._files(name, revision))
        inside = [entry for entry in entries if not below or entry["path"].startswith(f"{below}/")]
        if below and not inside:
            return Response(b"", 404, {"X-Error-Code": "EntryNotFound"})
        deep = below.count("/") + 1 if below else 0
        return _json([entry for entry in inside if recursive or entry["path"].count("/") == deep])

    def _resolve(self, name: str, revision: str, path: str, request: Request) -> Response:
        headers = {"X-Repo-Commit": self._sha(name, revision), "Accept-Ranges": "bytes"}
        data = self._files(name, revision).get(path)
        if data is None:
            return Response(b"Entry not found", 404, headers | {"X-Error-Code": "EntryNotFound"})
        digest = hashlib.sha256(data).hexdigest()
        if len(data) < SMALL:
            return _file(data, request, headers | {"ETag": f'"{digest}"'})
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{digest}"', "ETag": '"link"'}
        return Response(b"", 302, headers | {"Location": f"http://{request.headers['host']}/blobs/{digest}"})


def _entries(files: dict[str, bytes]) -> list[dict]:
    folders = {"/".join(parts[:n]) for parts in (path.split("/") for path in files) for n in range(1, len(parts))}
    entries = [{"type": "directory", "path": path, "oid": _oid(path.encode()), "size": 0} for path in folders]
    for path, data in files.items():
        entry = {"type": "file", "path": path, "oid": _oid(data), "size": len(data)}
        if len(data) >= SMALL:
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        entries.append(entry)
    return sorted(entries, key=lambda entry: entry["path"])


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _json(value: object) -> Response:
    return Response(json.dumps(value).encode(), headers={"Content-Type": "application/json"})


def _file(data: bytes, request: Request, headers: dict[str, str]) -> Response:
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if not wanted:
        return Response(data, headers=headers)
    first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
    if first >= len(data):
        return Response(b"", 416, headers)
    return Response(data[first : last + 1], 206, headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"})

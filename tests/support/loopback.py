"""An HTTP server on the loopback address that misbehaves on request.

    with Server(site) as server:
        server.fail(r"/data/.*", "cut", times=2)

`site(request)` returns what a well-behaved server would; a fault spoils the answers to the next `times`
GET requests whose path with query matches.
"""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Request:
    """What was asked: `path` has the query, header names are in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Response:
    """What is answered; `length` is announced as Content-Length where it is not that of the body."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    pause_s: float = 0.0  # before the first and before the second half of the body


NOT_FOUND = Response(b"not found", 404)

# What each fault makes of a good answer.
FAULTS: dict[str, Callable[[Response, Request], Response]] = {
    "429": lambda good, request: Response(b"slow down", 429, {"Retry-After": "1"}),
    "503": lambda good, request: Response(b"try later", 503),
    "slow": lambda good, request: replace(good, pause_s=0.5),
    "stalled": lambda good, request: replace(good, pause_s=3600.0),
    "cut": lambda good, request: replace(good, body=good.body[: len(good.body) // 2], length=len(good.body)),
    "short": lambda good, request: replace(good, body=good.body[: len(good.body) // 2]),
    "long": lambda good, request: replace(good, body=good.body + b"and more"),
    "wrong": lambda good, request: replace(good, body=bytes([good.body[0] ^ 1]) + good.body[1:]),
    "redirect": lambda good, request: Response(b"", 302, {"Location": request.path}),
    "garbage": lambda good, request: replace(good, body=b"<html>login here</html>"),
}


class Server:
    """Serves `site` at `url` until the block ends; `requests` are those answered so far."""

    def __init__(self, site: Callable[[Request], Response]):
        self.site, self.requests = site, list[Request]()
        self._faults: list[list] = []
        self._lock, self._over = threading.Lock(), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # it holds the second of two small writes back for 40 ms

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, body)
                outer._send(self, outer._spoiled(request, outer.site(request)))

            do_GET = do_HEAD = do_POST = answer

            def log_message(self, *args):
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *client):  # one that was killed
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, pattern: str, fault: str, times: int = 1) -> None:
        """Spoil the answers to the next `times` GET requests whose path matches."""
        with self._lock:
            self._faults.append([re.compile(pattern), FAULTS[fault], times])

    def heal(self) -> None:
        """Behave from now on."""
        with self._lock:
            self._faults.clear()

    def __enter__(self) -> "Server":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def _spoiled(self, request: Request, good: Response) -> Response:
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                pattern, spoil, times = fault
                if request.method == "GET" and times > 0 and pattern.search(request.path):
                    fault[2] -= 1
                    return spoil(good, request)
        return good

    def _send(self, handler: BaseHTTPRequestHandler, response: Response) -> None:
        handler.send_response(response.status)
        announced = len(response.body) if response.length is None else response.length
        for name, value in ({"Content-Length": str(announced)} | response.headers).items():
            handler.send_header(name, value)
        handler.close_connection = announced != len(response.body)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        half = len(response.body) // 2
        for part in (response.body[:half], response.body[half:]):
            if response.pause_s and self._over.wait(response.pause_s):
                return
            try:
                handler.wfile.write(part)
                handler.wfile.flush()
            except OSError:  # the client has gone
                return


def wait_until(true: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Return when `true()` is, and fail after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)

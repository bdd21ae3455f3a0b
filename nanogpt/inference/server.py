"""An HTTP server that speaks OpenAI's completions and chat completions, for one model or several.

One process: a `Worker` writes the texts of all requests at once in the main thread, and an event loop in another reads
requests and sends answers.
"""

import asyncio
import contextlib
import functools
import json
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from nanogpt.inference.openai_request import Asked, Refused, read_request
from nanogpt.inference.openai_response import Answer
from nanogpt.inference.worker import Failed, Job, QueueFull, Stopped, Worker
from nanogpt.inference.writer import Writer
from nanogpt.runtime.errors import UserError, shorten
from nanogpt.runtime.process import SIGNALS

MAX_BODY = 2**20  # bytes
DRAINED = 2**24  # bytes of a larger body that are read and dropped, so that its sender reads the answer
BODY_SECONDS = 30.0  # that a body may take to arrive
READ_SECONDS = 60.0  # in which a client must make room for more of a stream
RETRY_SECONDS = 1  # after which a client is told to ask again when the queue is full
GRACE_SECONDS = 5.0  # that running requests have after a signal
EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address, port 0 for any free one. Raises UserError where that fails."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (")[0]
        raise UserError(f"{host} port {port}: {reason}; choose another --port or --host") from None


def describe_start(writers: dict[str, Writer], listening: socket.socket) -> str:
    """One line: where the server is, what it serves, and a command to try it with."""
    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    chat = next(iter(writers.values())).tok.chat
    body = {"max_tokens": 50} | ({"messages": [{"role": "user", "content": "Hello"}]} if chat else {"prompt": "Once"})
    path = "chat/completions" if chat else "completions"
    command = f"curl {url}/{path} -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
    return f"serving {', '.join(writers)} at {url}; try: {command}"


def serve(writers: dict[str, Writer], listening: socket.socket, max_queue: int) -> None:
    """Answer requests at a socket until a signal comes; requests that run then have GRACE_SECONDS to end.

    `writers` are the models by name, the first of which answers where a request names none. At most `max_queue` texts
    of a model wait for a row.
    """
    Server(Worker(writers, max_queue)).run_both(listening)


class Server(uvicorn.Server):
    """Ends its requests before uvicorn would cut them off, and ends on each of the signals that end a stage."""

    def __init__(self, worker: Worker):
        self.worker = worker
        options = {"log_level": "error", "access_log": False, "ws": "none", "proxy_headers": False}
        options |= {"timeout_graceful_shutdown": int(GRACE_SECONDS) + 2}  # more for clients that do not read answers
        super().__init__(uvicorn.Config(make_app(worker), **options))

    def run_both(self, listening: socket.socket) -> None:
        """Serve in a thread of its own and let the worker write in this one, until a signal or `should_exit`."""

        def run() -> None:
            try:
                self.run(sockets=[listening])
            finally:
                self.worker.close()

        thread = threading.Thread(target=run, name="server")
        with self._handle_signals():
            thread.start()
            try:
                self.worker.run()
            finally:
                self.should_exit = True
                thread.join()

    def capture_signals(self) -> contextlib.nullcontext:
        """Leave the signals to `run_both`: uvicorn handles them in the main thread alone, and raises them again."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def _handle_signals(self) -> Iterator[None]:
        main = threading.current_thread() is threading.main_thread()
        before = {number: signal.getsignal(number) for number in SIGNALS} if main else {}
        before = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
        for number in before:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)

    def handle_exit(self, number: int, frame: object) -> None:
        """Begin to end; a second Ctrl-C ends running requests at once."""
        if self.should_exit and number == signal.SIGINT:
            self.worker.abort()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for running requests, and end those that take longer with an error."""
        timer = asyncio.get_running_loop().call_later(GRACE_SECONDS, self.worker.abort)
        await super().shutdown(sockets)
        timer.cancel()


def make_app(worker: Worker) -> ASGIApp:
    """The application; every error is answered in OpenAI's form."""
    pages = _Pages(worker)
    routes = [
        Route("/health", pages.health),
        Route("/v1/models", pages.models),
        Route("/v1/models/{name:path}", pages.model),
        Route("/v1/completions", functools.partial(pages.complete, chat=False), methods=["POST"]),
        Route("/v1/chat/completions", functools.partial(pages.complete, chat=True), methods=["POST"]),
    ]

    @contextlib.asynccontextmanager
    async def run_worker(app: Starlette) -> AsyncIterator[None]:
        worker.report_to(asyncio.get_running_loop())
        yield
        await asyncio.to_thread(worker.close)

    handlers = {
        Refused: _refuse,
        HTTPException: _refuse_http,
        ClientDisconnect: _say_nothing,
        Exception: _report_mistake,
    }
    app = Starlette(routes=routes, lifespan=run_worker, exception_handlers=handlers)
    app.router.redirect_slashes = False

    async def end_quietly(scope: Scope, receive: Receive, send: Send) -> None:
        # Where bad bytes follow a request at once, uvicorn refuses them and learns only now that it has closed.
        await asyncio.sleep(0)
        # uvicorn cancels what still runs when its patience ends, and would log that as a mistake of the application.
        with contextlib.suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return end_quietly


class _Pages:
    """What is answered at each path."""

    def __init__(self, worker: Worker):
        self.worker, self.started, self.created = worker, time.monotonic(), int(time.time())

    async def health(self, request: Request) -> Response:
        active, waiting = self.worker.counts()
        rate, uptime = round(self.worker.tokens_per_second(), 1), round(time.monotonic() - self.started, 1)
        found = {"status": "ok", "models": list(self.worker.writers), "active": active, "waiting": waiting}
        return JSONResponse(found | {"tokens_per_s": rate, "tokens": self.worker.tokens, "uptime_s": uptime})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._describe(name) for name in self.worker.writers]})

    async def model(self, request: Request) -> Response:
        return JSONResponse(self._describe(self._known(request.path_params["name"])))

    async def complete(self, request: Request, chat: bool) -> Response | ASGIApp:
        asked = read_request(await _read_body(request), chat)
        name = self._known(next(iter(self.worker.writers)) if asked.model is None else asked.model)
        writer = self.worker.writers[name]
        if (count := len(asked.prompts) * asked.options["num_samples"]) > (most := self.worker.capacity(name)):
            raise Refused(400, f"the request asks for {count} texts; at most {most} are possible", "prompt")
        ids = await asyncio.to_thread(_encode_prompts, writer, asked, name)
        room = writer.engine.decoder.config.block_size - len(ids[0]) - 1
        job = Job(name, ids, asked.sampling(max(1, room)), asked.seed, asked.top_logprobs, asked.stream)
        return functools.partial(self._answer, job, Answer(asked, name, writer.tok, job))

    async def _answer(self, job: Job, answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the texts and send them; they are given up when the client goes."""
        self._submit(job)
        watch = asyncio.create_task(_end_with_client(job, receive))
        try:
            news = await job.wait()  # first, so that an error can still have its status
            if not job.streams:
                return await JSONResponse(answer.whole())(scope, receive, send)
            await _stream(job, answer, news, send)
        except Failed as error:
            raise Refused(500, str(error), code="model_failed") from None
        except Stopped:
            raise _stopping() from None
        finally:
            watch.cancel()
            self.worker.cancel(job)

    def _submit(self, job: Job) -> None:
        try:
            self.worker.submit(job)
        except QueueFull:
            message = f"too many texts wait already (at most {self.worker.max_queue}); ask again later"
            raise Refused(429, message, code="queue_full", headers={"Retry-After": str(RETRY_SECONDS)}) from None
        except Stopped:
            raise _stopping() from None

    def _known(self, name: str) -> str:
        if name not in self.worker.writers:
            known = ", ".join(self.worker.writers)
            message = f"there is no model {shorten(name, 60)} here; the models are: {known}"
            raise Refused(404, message, "model", "model_not_found")
        return name

    def _describe(self, name: str) -> dict[str, str | int]:
        return {"id": name, "object": "model", "created": self.created, "owned_by": "nanogpt"}


async def _stream(job: Job, answer: Answer, news: list, send: Send) -> None:
    """Send each step of a job as events, beginning with `news`; an error is the last one."""
    headers = [(name.lower().encode(), value.encode()) for name, value in EVENTS.items()]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    text, left = answer.begin(), job.count
    try:
        while True:
            text += answer.events(news)
            left -= sum(each.finish is not None for each in news)
            if not left:
                break
            if text:
                async with asyncio.timeout(READ_SECONDS):
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            text, news = "", await job.wait()
        text += answer.finish()
    except (Failed, Stopped) as error:
        refused = _stopping() if isinstance(error, Stopped) else Refused(500, str(error), code="model_failed")
        text = f"data: {json.dumps(_error_body(refused))}\n\n"
    except TimeoutError:  # what it does not read would be kept for it
        return
    except ClientDisconnect:
        text = ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READ_SECONDS):
            await send({"type": "http.response.body", "body": text.encode()})


async def _end_with_client(job: Job, receive: Receive) -> None:
    """Give a job up when its client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    job.report(ClientDisconnect())


def _encode_prompts(writer: Writer, asked: Asked, name: str) -> list[list[int]]:
    """Token ids of all prompts. Raises Refused for those that the model cannot read."""
    if asked.chat and not writer.tok.chat:
        remedy = "ask /v1/completions, or fine-tune the model on conversations (docs/fine-tuning.md)"
        raise Refused(
            400, f"model {name} has no chat template: it continues texts; {remedy}", "model", "no_chat_template"
        )
    field = "messages" if asked.chat else "prompt"
    # Documents begin after an end token, which takes a place of the block.
    block, n_tokens = writer.engine.decoder.config.block_size - 1, writer.tok.n_tokens
    found = []
    for prompt in asked.prompts:
        try:
            ids = prompt if isinstance(prompt, list) and not asked.chat else writer.encode(prompt)
        except UserError as error:
            raise Refused(400, str(error), field) from None
        if len(ids) > block:
            message = f"the prompt has {len(ids)} tokens, and model {name} reads at most {block}; make it shorter"
            raise Refused(400, message, field, "context_length_exceeded")
        if wrong := [id for id in ids if not 0 <= id < n_tokens]:
            message = f"{shorten(wrong[0], 40)} is no token of model {name}; choose ids from 0 to {n_tokens - 1}"
            raise Refused(400, message, field)
        found.append(ids)
    return found


async def _read_body(request: Request) -> bytes:
    """The body of a request. Raises Refused where it is too large, too slow, or not declared as JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size <= MAX_BODY:
                    parts.append(part)
                elif size > DRAINED:
                    break
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {BODY_SECONDS:.0f} s; ask again") from None
    if size > MAX_BODY:
        raise Refused(413, f"the body has more than {MAX_BODY} bytes; make the prompt shorter")
    if kind != "application/json":
        raise Refused(415, "the body is not declared as JSON; send the header Content-Type: application/json")
    return b"".join(parts)


def _stopping() -> Refused:
    return Refused(503, "the server is stopping; ask again when it runs", code="stopping")


def _error_body(refused: Refused) -> dict[str, dict[str, str | None]]:
    kind = "server_error" if refused.status >= 500 else "invalid_request_error"
    kind = "rate_limit_error" if refused.status == 429 else kind
    return {"error": {"message": str(refused), "type": kind, "param": refused.param, "code": refused.code}}


async def _refuse(request: Request, error: Exception) -> Response:
    # What is left of a body may be no HTTP, so the connection ends where one has not been read.
    closing = {"Connection": "close"} if error.status in (404, 405, 408, 413, 503) else {}
    body = json.dumps(_error_body(error))  # in ASCII: a message may repeat half a surrogate
    return Response(body, error.status, error.headers | closing, "application/json")


async def _refuse_http(request: Request, error: Exception) -> Response:
    """An unknown path, or a method that a path does not have."""
    hint = (
        "; the paths are /v1/completions, /v1/chat/completions, /v1/models and /health"
        if error.status_code == 404
        else ""
    )
    message = f"{request.method} {shorten(request.scope['path'], 100)}: {error.detail}{hint}"
    return await _refuse(request, Refused(error.status_code, message, headers=error.headers))


async def _say_nothing(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # to a client that is gone


async def _report_mistake(request: Request, error: Exception) -> Response:
    return await _refuse(request, Refused(500, "a mistake of the server"))

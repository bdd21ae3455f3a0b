"""Small models on the disk, the same opened, and a server of them in a thread."""

import copy
import logging
import threading
from types import SimpleNamespace

import adapters
import openai
import pytest
from served import BLOCK, MAX_QUEUE, open_all

from nanogpt.checkpoint.folder import save_checkpoint
from nanogpt.inference.server import Server, listen
from nanogpt.inference.worker import Worker


@pytest.fixture(scope="module")
def folders(tiny, byte, char, tmp_path_factory):
    """Models: small (bytes), an adapter on it, chatty (answers messages), letters (characters), broken (not finite)."""
    folder = tmp_path_factory.mktemp("served")
    shape = {"block_size": BLOCK, "n_layer": 2}
    small = tiny("optimized", **shape)
    small.lm_head.weight.data[byte.eot] = 0  # never the likeliest, so that a greedy text does not end by itself
    saved = adapters.saved(folder, small, byte)
    found = {"small": saved.base.rename(folder / "small"), "adapter": saved.adapter}
    chat = copy.copy(byte)
    chat.chat = True
    broken = tiny("base", **shape)
    broken.lm_head.weight.data.fill_(3e38)  # products overflow
    models = {
        "chatty": (tiny("base", seed=3, **shape), chat),
        "letters": (tiny("optimized", seed=4, vocab_size=char.vocab_size, **shape), char),
        "broken": (broken, byte),
    }
    for name, (model, tok) in models.items():
        save_checkpoint(folder / name, model, tok)
        found[name] = folder / name
    return {name: str(path) for name, path in found.items()}


@pytest.fixture(scope="module")
def alone(folders):
    """The same models, to write with them directly."""
    return open_all(folders)


@pytest.fixture(scope="module")
def served(folders):
    """A server in a thread: url, worker and an OpenAI client."""
    listening = listen("127.0.0.1", 0)
    server = Server(Worker(open_all(folders), MAX_QUEUE))
    thread = threading.Thread(target=server.run_both, args=[listening], daemon=True)
    port = listening.getsockname()[1]
    thread.start()
    url, log = f"http://127.0.0.1:{port}", []
    handler = logging.Handler()
    handler.emit = lambda record: log.append(record.getMessage())
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addHandler(handler)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    yield SimpleNamespace(url=url, port=port, worker=server.worker, client=client, log=log)
    client.close()
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()
    assert log == []  # neither a traceback

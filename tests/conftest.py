"""Fixtures that several test files share: tokenizers, bins, small models, settings of short runs."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

if threading.current_thread() is threading.main_thread():
    # A shell's `&` and nohup have their children ignore these, and whatever the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Programs that tests start find this project and what tests share, in whatever folder they run.
os.environ["PYTHONPATH"] = os.pathsep.join(str(Path(__file__).parent / folder) for folder in ("..", "support"))

# Two processes share the cores here: threads that wait for more to do are to sleep, not to keep a core from the others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

pytest.register_assert_rewrite("clone", "hub_client", "killed", "served")  # what they assert is shown like a test's own

TEXTS = [
    "A cat sat on a mat.",
    "The cat saw a dog, and the dog saw the cat.",
    "It's 3 o'clock: time for tea!",
    "\n  two  spaces\tand a tab\n",
    "Été, naïve, 日本語 and a 🙂.",
    "a",
    "The mat sat on the dog. " * 4,
    "Once more the cat sat; once more the dog saw it, and then they all went home to tea.",
] * 3


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that at the end no process is left alone with one of them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def shared_compiler_cache(tmp_path_factory):
    """Compile once for all tests: torch's compiler tries out a machine for half a minute, and decoding takes 2 s."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "compiled"))
        patch.setenv("NANOGPT_COMPILED", str(folder / "decoding"))
        yield


@pytest.fixture(autouse=True)
def restore_torch_settings():
    """Undo what training sets in torch (threads, precision of products, denormals), so that no test sees another's."""
    torch = sys.modules.get("torch")
    before = torch and torch.get_num_threads()
    yield
    torch = sys.modules.get("torch")
    if torch:
        torch.set_num_threads(before or torch.get_num_threads())
        torch.set_flush_denormal(False)
        torch.backends.mkldnn.matmul.fp32_precision = "none"
        torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def clear_final_checks():
    """Drop final checks that a test has added, so that they do not run in another."""
    yield
    if process := sys.modules.get("nanogpt.runtime.process"):
        process._final_checks.clear()


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """Change into an empty folder, so that `.work` lies there, as outside of DVC; return it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS


@pytest.fixture(scope="session")
def byte():
    """Return a byte tokenizer: ids 0 to 255 and the end token 256, an embedding of 320 rows."""
    from nanogpt.data.prepare.train_tokenizer import train_tokenizer
    from nanogpt.data.tokens.settings import TokenizerSettings

    return train_tokenizer(TokenizerSettings("byte", 0, "error"), [])


@pytest.fixture(scope="session")
def char():
    """Return a char tokenizer of TEXTS, which refuses other characters."""
    from nanogpt.data.prepare.train_tokenizer import train_tokenizer
    from nanogpt.data.tokens.settings import TokenizerSettings

    return train_tokenizer(TokenizerSettings("char", 0, "error"), TEXTS)


@pytest.fixture(scope="session")
def write_bins() -> Callable:
    """Write a folder of bins: `write_corpus(folder, tok, texts=…, bits=…)`, half of the documents for validation."""
    from nanogpt.data.prepare.write_bins import write_corpus
    from nanogpt.data.sources.document import Corpus, Document

    def write(folder: Path, tok, texts: list[str] = TEXTS, bits: float | None = None, name: str = "test") -> Path:
        folder.mkdir(parents=True)
        documents = [Document(text, bits) for text in texts]
        write_corpus(folder, Corpus(name, "CC0", lambda skipped: iter(documents), exact=True), tok, 0.5)
        tok.save(folder / "tokenizer")
        return folder

    return write


@pytest.fixture(scope="session")
def tiny() -> Callable:
    """A tiny model: `tiny("base", n_layer=2)`. Its weights are large, so that logits differ visibly."""
    import torch

    from nanogpt.model.build import build_model
    from nanogpt.model.config import ModelConfig

    def make(arch: str = "base", seed: int = 0, **changed):
        shape = {"n_layer": 1, "n_head": 2, "n_kv_head": 1, "n_embd": 16, "block_size": 16, "dropout": 0.0}
        shape |= {"tie_embeddings": False, "qk_norm": False, "vocab_size": 320}
        config = ModelConfig(arch=arch, **shape | changed)
        torch.manual_seed(seed)
        model = build_model(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.2) if parameter.dim() > 1 else parameter.add_(
                    torch.randn_like(parameter), alpha=0.1
                )
        return model

    return make


@pytest.fixture(scope="session")
def training() -> Callable:
    """Settings of a short run on one core in fp32: `training(max_steps=5)`."""
    from nanogpt.training.settings import TrainSettings

    def settings(**changed) -> TrainSettings:
        values = {"max_steps": 20, "batch_size": 4, "grad_accum": 1, "lr": 3e-3, "min_lr": 3e-4, "warmup_steps": 3}
        values |= {
            "embedding_lr": 1.0,
            "optimizer": "adamw",
            "schedule": "cosine",
            "windows": "stream",
            "max_minutes": None,
            "keep": "last",
            "patience": None,
            "sample_every": None,
            "tensorboard": False,
        }
        values |= {"weight_decay": 0.1, "beta1": 0.9, "beta2": 0.98, "grad_clip": 1.0}
        values |= {"eval_every": 10, "eval_batches": 2}
        values |= {"log_every": 5, "dtype": "float32", "compile": "off", "threads": 1, "device": "cpu"}
        values |= {"checkpoint_every": "60s", "init_from": "data/own/model"}
        values |= {"processes": 1, "exchange_dtype": "float32", "local_steps": 1, "timeout_s": 60}
        return TrainSettings(**values | changed)

    return settings

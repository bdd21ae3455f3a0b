"""Speed and memory of turning text into token bins, beside tiktoken alone on the same text."""

import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from nanogpt.data.prepare.prepare import prepare_corpus
from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.sources import files
from nanogpt.data.sources.document import Corpus, DataSettings
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.data.tokens.tokenizer import BytePairs, load_tokenizer
from nanogpt.hardware import memory
from nanogpt.runtime.errors import UserError

TIKTOKEN_MB = 1000  # of text, from which tiktoken's rate is taken


def measure_prepare(corpus: Corpus, tokens: TokenizerSettings, megabytes: int, repeats: int) -> dict[str, float]:
    """Seconds and rates of preparing `megabytes` (10^6 bytes) of a corpus, whose texts are repeated to that size.

    `prepare_mb_per_s` is from a .jsonl file to bins and manifest on the disk, `tiktoken_mb_per_s` that of tiktoken's
    `encode_ordinary_batch` on the first TIKTOKEN_MB of the same texts in memory. Both are medians of `repeats` runs,
    made in turns, each in a process of its own; `train_s` trains the tokenizer. Raises UserError for a tokenizer that
    tiktoken does not have.
    """
    with tempfile.TemporaryDirectory() as scratch:
        text, folder = Path(scratch, "text.jsonl"), Path(scratch, "tokenizer")
        with text.open("w", encoding="utf-8") as file:
            for line in repeat_texts(corpus.texts(), megabytes * 10**6):
                file.write(json.dumps({"text": line}) + "\n")
        train_s, train_peak = _run_in_process(_train, text, folder, tokens.resolve_auto(corpus.tokenizer))
        prepared, encoded_s = [], []
        for _ in range(repeats):
            prepared.append(_run_in_process(_prepare, text, folder, Path(scratch, "out")))
            encoded_s.append(_run_in_process(_encode, text, folder))
    prepare_s = statistics.median(seconds for seconds, _ in prepared)
    tiktoken_mb_per_s = min(megabytes, TIKTOKEN_MB) / statistics.median(encoded_s)
    return {
        "megabytes": float(megabytes),
        "train_s": train_s,
        "prepare_mb_per_s": megabytes / prepare_s,
        "tiktoken_mb_per_s": tiktoken_mb_per_s,
        "prepare_over_tiktoken": megabytes / prepare_s / tiktoken_mb_per_s,
        "peak_mib": max(train_peak, *(peak for _, peak in prepared)),
    }


def repeat_texts(texts: Iterable[str], size: int) -> Iterator[str]:
    """Repeat texts until they hold `size` bytes, from the second time on with a number, so that all of them differ.

    Raises UserError where there is no text.
    """
    texts, missing = list(texts), size
    if not any(texts):
        raise UserError("no text to repeat; name a file or folder with --path")
    for turn in itertools.count():
        for text in texts:
            text = f"{turn}. {text}" if turn else text
            missing -= len(text.encode())
            yield text
            if missing <= 0:
                return


def _run_in_process(function, *args):
    """Call a function in a fresh process, so that its memory can be measured."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def _read_corpus(text: Path) -> Corpus:
    return files.load(
        DataSettings("files", None, 0.01, str(text), "*", "text", "text"),
        files.FilesSettings(strict=True, shard_mb=256),
    )


def _train(text: Path, folder: Path, settings: TokenizerSettings) -> tuple[float, float]:
    start = time.perf_counter()
    trained = train_tokenizer(settings, _read_corpus(text).texts())
    seconds = time.perf_counter() - start
    if not isinstance(trained, BytePairs):
        raise UserError(f"tokenizer.kind = {settings.kind}: not an encoding of tiktoken; choose gpt2, bpe or byte")
    trained.save(folder)
    return seconds, memory.peak_mib()


def _prepare(text: Path, folder: Path, out: Path) -> tuple[float, float]:
    start = time.perf_counter()
    prepare_corpus(out, _read_corpus(text), 0.01, folder)
    return time.perf_counter() - start, memory.peak_mib()


def _encode(text: Path, folder: Path) -> float:
    encoding = load_tokenizer(folder).encoding
    seconds, texts, left = 0.0, _read_corpus(text).texts(), TIKTOKEN_MB * 10**6
    while left > 0 and (batch := list(itertools.islice(texts, 1000))):
        left -= sum(len(one.encode()) for one in batch)
        start = time.perf_counter()
        encoding.encode_ordinary_batch(batch)
        seconds += time.perf_counter() - start
    return seconds

"""Trains byte pairs in a process of its own: texts come on stdin, the pieces go to stdout in the order of their ranks.

Stdin has one text a line as a JSON string, then null; stdout gets one JSON list.
`tokenizers` handles no signal while it trains, so it runs in a process that can be killed and that ends with
its parent. Run as a script with two arguments: the number of pieces, and the process id of the parent.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import tokenizers
from tokenizers import models, pre_tokenizers, trainers


def main() -> None:
    """Read the texts, train, and write the vocabulary as a JSON list of pieces in GPT-2's visible letters."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    threading.Thread(target=_exit_with_parent, args=[int(sys.argv[2])], daemon=True).start()
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=int(sys.argv[1]),
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_read_texts(), trainer)
    vocab = tokenizer.get_vocab()
    print(json.dumps(sorted(vocab, key=vocab.get)), flush=True)


def _read_texts() -> Iterator[str]:
    for line in sys.stdin:
        if (text := json.loads(line)) is None:
            return
        yield text
    os._exit(1)


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    main()

import random

import numpy as np
import pytest

from nanogpt.evaluation.copies import longest_copies


@pytest.mark.parametrize("offset", [0, 60_000, 70_000])
def test_the_longest_run_of_each_text_is_found(offset):
    """Against every run of every text; with ids of 16 and of 32 bits."""
    rng = random.Random(offset)
    for _ in range(60):
        letters = rng.choice([2, 3, 5])
        texts = [
            [rng.randrange(letters) + offset for _ in range(rng.randrange(12))] for _ in range(rng.randrange(1, 5))
        ]
        source = [rng.randrange(letters + 1) + offset for _ in range(rng.randrange(40))]
        runs = {tuple(source[i:j]) for i in range(len(source)) for j in range(i + 1, len(source) + 1)}
        found = longest_copies([np.array(text, np.int64) for text in texts], np.array(source, np.int64))
        for text, (start, end) in zip(texts, found, strict=True):
            longest = max((j - i for i in range(len(text)) for j in range(i + 1, len(text) + 1)
                           if tuple(text[i:j]) in runs), default=0)  # fmt: skip
            assert end - start == longest and (not longest or tuple(text[start:end]) in runs)

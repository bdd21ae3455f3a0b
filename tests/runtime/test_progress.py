"""What a training run says of its progress where there is no terminal."""

import re

import pytest

from nanogpt.runtime.progress import Progress, describe_time


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (119.4, "119 s"), (120, "2 min"), (3569, "59 min"), (3571, "1 h 0 min"), (131_791, "36 h 37 min")],
)
def test_a_time_in_words(seconds, words):
    assert describe_time(seconds) == words


def test_the_lines_of_a_resumed_run(capsys):
    progress = Progress(max_steps=8, first_step=5, tokens_per_step=100)
    progress.start -= 300  # the first step compiled for five minutes
    progress.step(6, 2.0, None)
    progress.step(7, 1.5, None)  # sooner than the next line
    progress.start -= 20  # after the first step
    assert progress.seconds_left(7) == pytest.approx(20, abs=5)
    progress.step(8, 1.25, 1.75)
    first, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"step 6/8: loss 2.000, 0 tokens/s, 10 min left", first)
    assert re.fullmatch(r"step 8/8: loss 1.250, validation 1.750, ([5-9]|10) tokens/s, 0 s left", last)

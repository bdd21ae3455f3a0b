import itertools
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.data.tokens.batches import Replay, Windows
from nanogpt.data.tokens.bins import Bin, Counts, tokenizer_of_bins
from nanogpt.runtime.errors import UserError


def test_missing_and_damaged_bins(tmp_path, byte, write_bins):
    folder = tmp_path / "bins"
    with pytest.raises(UserError, match=r"manifest\.json does not exist; .*dvc repro"):
        Bin.open(folder, "train", byte)
    path = write_bins(folder, byte) / "train.bin"
    data = path.read_bytes()
    for damaged in (data[:-2], data[:-1] + b"?"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"train\.bin: damaged, its SHA-256 "):
            Bin.open(folder, "train", byte)
    path.unlink()
    with pytest.raises(UserError, match=r"train\.bin does not exist"):
        Bin.open(folder, "train", byte)
    for content in ("{", "{}", "[]", '{"dtype": "uint16", "splits": {"train": {"pages": 1}}}'):
        (folder / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=r"manifest\.json: damaged"):
            Bin.open(folder, "train", byte)


def test_bins_of_another_tokenizer_and_read_only(tmp_path, byte, char, write_bins):
    folder = write_bins(tmp_path / "bins", byte)
    with pytest.raises(UserError, match=r"another tokenizer \(byte\) than the model's \(char\); prepare"):
        Bin.open(folder, "train", char)
    with pytest.raises(ValueError, match="read-only"):
        Bin.open(folder, "train", byte).tokens[0] = 1


def test_the_tokenizer_of_bins_lies_in_their_folder_or_beside_it(tmp_path, byte, char, write_bins):
    for name, tokenizer in (("a", char), ("b", byte), ("c", char)):
        write_bins(tmp_path / name, tokenizer)
    shutil.rmtree(tmp_path / "c" / "tokenizer")
    assert tokenizer_of_bins(tmp_path / "b").kind == "byte"
    assert tokenizer_of_bins(tmp_path / "c").sha256 == char.sha256
    (tmp_path / "a" / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json: damaged"):
        tokenizer_of_bins(tmp_path / "a")
    with pytest.raises(UserError, match=r"c: the char tokenizer of its tokens is neither in it nor .* beside it; copy"):
        tokenizer_of_bins(tmp_path / "c")


def counting(length: int) -> Bin:
    """A bin in which each token is its own position."""
    return Bin("counting", "train", np.arange(length, dtype=np.uint16), 0, Counts())


@settings(deadline=None)
@given(length=st.integers(2, 500), T=st.integers(1, 50), epoch=st.integers(0, 3), seed=st.integers(0, 2**32))
def test_an_epoch_takes_each_window_once_within_the_stream(length, T, epoch, seed):
    if length <= T:
        return
    windows = Windows(counting(length), T, seed)
    n = windows.per_epoch
    starts = np.sort(windows.starts(np.arange(epoch * n, (epoch + 1) * n)))
    assert len(starts) == max(1, length // T - 1)
    assert len({*starts}) == len(starts)
    assert (np.diff(starts) % T == 0).all()
    assert starts[0] >= 0
    assert starts[-1] + T < length


@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60), T=st.integers(2, 30), seed=st.integers(0, 2**32))
def test_each_document_that_fits_is_whole_in_a_window(lengths, T, seed):
    ends = [0, *itertools.accumulate(length + 1 for length in lengths)]
    if ends[-1] < T:
        return
    tokens = np.ones(ends[-1] + 1, np.uint16)
    tokens[ends] = 0
    windows = Windows(Bin("test", "train", tokens, 0, Counts()), T, seed, whole_documents=True)
    n = windows.per_epoch
    assert n <= len(tokens) // T + len(lengths) + 2
    seen = {*windows.starts(np.arange((10 + 300 // n) * n)).tolist()}
    assert min(seen) >= 0
    assert max(seen) + T == len(tokens) - 1  # in time the last document is read to its end
    for start, end in itertools.pairwise(ends):
        if start >= T and end - start <= T:
            assert any(window <= start and end <= window + T for window in seen)


@settings(deadline=None, max_examples=30)
@given(step=st.integers(0, 50), split=st.sampled_from([(8, 1), (4, 2), (2, 4), (1, 8)]))
def test_a_batch_is_a_function_of_seed_and_sample(step, split):
    rows, parts = split
    x, y = Windows(counting(333), 7, 1).batch(step, 8)
    other = Windows(counting(333), 7, 1)
    pieces = [other.batch(step * parts + part, rows) for part in reversed(range(parts))][::-1]
    assert x.tolist() == [row for piece, _ in pieces for row in piece.tolist()]
    assert y.tolist() == [row for _, piece in pieces for row in piece.tolist()]


@settings(deadline=None, max_examples=40)
@given(share=st.floats(0, 0.99), size=st.integers(1, 20), step=st.integers(0, 30))
def test_replay_is_an_even_share_of_both_texts_in_their_order(share, size, step):
    """Tokens of the old text are made to be above those of the new."""
    new, old = (
        Windows(counting(300), 7, 1),
        Windows(Bin("old", "train", counting(400).tokens + 1000, 0, Counts()), 7, 2),
    )
    n = size * (step + 1)
    batches = [Replay(new, old, share).batch(i, size)[0] for i in range(step + 1)]
    rows = [row for batch in batches for row in batch.tolist()]
    replayed = [row for row in rows if row[0] >= 1000]
    assert len(replayed) == int(n * share)
    assert replayed == old.rows(np.arange(len(replayed)))[:, 0].tolist()
    fresh = [row for row in rows if row[0] < 1000]
    assert fresh == new.rows(np.arange(len(fresh)))[:, 0].tolist()
    for i in range(n):
        assert abs(sum(row[0] >= 1000 for row in rows[:i]) - i * share) <= 1


def test_targets_are_the_next_tokens():
    import torch

    x, y = Windows(counting(1000), 16, 3).batch(5, 4)
    assert (x.shape, y.shape, x.dtype, y.dtype) == ((4, 16), (4, 16), torch.int64, torch.int64)
    assert x.is_contiguous() and y.is_contiguous()
    assert torch.equal(y, x + 1)
    assert torch.equal(x[:, 1:], x[:, :-1] + 1)


def test_seeds_and_epochs_differ_and_every_token_is_seen_in_time():
    windows = Windows(counting(100), 8, 0)
    n = windows.per_epoch
    first, second = windows.starts(np.arange(n)), windows.starts(np.arange(n, 2 * n))
    assert first.tolist() != second.tolist()
    assert first.tolist() != Windows(counting(100), 8, 1).starts(np.arange(n)).tolist()
    starts = windows.starts(np.arange(100 * n))
    assert {*range(100)} == {int(position) for start in starts for position in range(start, start + 9)}


def test_a_bin_shorter_than_a_window():
    assert Windows(counting(9), 8, 0).batch(0, 2)[1].tolist() == [[*range(1, 9)]] * 2
    with pytest.raises(
        UserError, match=r"train\.bin of counting has 8 tokens, .*model\.block_size = 8 needs 9; choose a smaller"
    ):
        Windows(counting(8), 8, 0)

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.data.prepare import duplicates


def written(folder: Path, texts: list[bytes]) -> Path:
    path = folder / "digests"
    path.write_bytes(b"".join(map(duplicates.digest, texts)))
    return path


@pytest.mark.parametrize("share", [1, 3, 1 << 20])
@settings(deadline=None, max_examples=40)
@given(texts=st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=80))
def test_as_python_s_own_sets_say(share, texts, tmp_path_factory):
    names, val = [str(number).encode() for number, _ in texts], np.array([flag for _, flag in texts], bool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "SHARE", share)
        path = written(tmp_path_factory.mktemp("digests"), names)
        again = duplicates.find_duplicates(path)
        assert again.tolist() == [name in names[:i] for i, name in enumerate(names)]
        training = {name for name, flag in zip(names, val, strict=True) if not flag}
        shared = sum(flag and name in training for name, flag in zip(names, val, strict=True))
        assert duplicates.count_overlap(path, val, np.ones(len(names), bool)) == shared
        assert duplicates.count_overlap(path, val, ~again) == 0

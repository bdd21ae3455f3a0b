import math
import os

import pytest
import torch
from together import together

from nanogpt.hardware import process_group


@pytest.mark.parametrize(
    ("cores", "count", "shares"),
    [
        ({0, 1, 2, 3}, 2, [{0, 1}, {2, 3}]),
        ({4, 7, 9}, 2, [{4}, {7}]),  # one is left over
        ({0, 1}, 4, [{0}, {1}, {0}, {1}]),
        ({5}, 2, [{5}, {5}]),
        ({0, 1}, 1, [{0, 1}]),
    ],
)
def test_cores_are_shared_evenly(cores, count, shares):
    assert [process_group.share_of_cores(cores, index, count) for index in range(count)] == shares


def exchange() -> dict:
    number = process_group.rank()
    content = {"of": number, "weights": torch.full((3,), float(number)), "nested": [1.5, "text", None]}
    with pytest.raises(Exception, match="Weights only load failed"):
        process_group._unpack(process_group._pack(os.system))
    return {
        "rank": number,
        "size": process_group.size(),
        "total": process_group.total(torch.tensor([1.0, number])).tolist(),
        "mean": process_group.mean(float(number)),
        "nan": process_group.mean(math.nan if number == 1 else 0.0),
        "any": process_group.any_of(number == 2),
        "none": process_group.any_of(False),
        "first": process_group.of_first(number == 0),
        "not first": process_group.of_first(number == 1),
        "broadcast": process_group.broadcast(content if number == 1 else None, 1),
        "gathered": process_group.gather(content),
        "greatest": process_group.greatest([4, 9, 9][number]),
        "same": process_group.differing({"a": [1, 2.5]}),
        "differing": process_group.differing({"a": number // 2}),
        "cores": sorted(os.sched_getaffinity(0)),
    }


def test_what_three_processes_exchange():
    found = together(3, exchange)
    assert [(each["rank"], each["size"]) for each in found] == [(0, 3), (1, 3), (2, 3)]
    for each in found:
        assert each["total"] == [3.0, 3.0]
        assert each["mean"] == 1.0
        assert math.isnan(each["nan"])
        assert (each["any"], each["none"], each["first"], each["not first"]) == (True, False, True, False)
        assert each["broadcast"]["of"] == 1
        assert torch.equal(each["broadcast"]["weights"], torch.ones(3))
        assert each["broadcast"]["nested"] == [1.5, "text", None]
        assert each["greatest"] == (9, 1)
        assert each["same"] is None
        assert each["differing"] == {"a": 0}  # all of them learn what the first has
        assert len(each["cores"]) == max(1, len(os.sched_getaffinity(0)) // 3)
    assert [each["of"] for each in found[0]["gathered"]] == [0, 1, 2]
    assert [each["weights"][0].item() for each in found[0]["gathered"]] == [0, 1, 2]
    assert found[1]["gathered"] == found[2]["gathered"] == []


def test_one_process_is_alone():
    assert (process_group.rank(), process_group.size(), process_group.local_size()) == (0, 1, 1)
    assert process_group.gather({"a": 1}) == [{"a": 1}]
    assert process_group.broadcast("x") == "x"
    assert process_group.greatest(-1) == (-1, 0)
    assert process_group.differing({"a": 1}) is None

"""Snapshots share no memory with the state they were taken from."""

from collections import OrderedDict
from typing import Any, NamedTuple

import torch

from core.snapshots import copy_to_cpu, count_bytes


class _Pair(NamedTuple):
    left: torch.Tensor
    right: list[int]


def _state() -> dict[str, Any]:
    return {
        "weights": OrderedDict(a=torch.ones(2, 3), b=torch.ones(4, dtype=torch.bfloat16)),
        "nested": [(torch.zeros(1, requires_grad=True), "text"), _Pair(torch.ones(2), [1, 2])],
        "step": 7,
        "none": None,
    }


def test_a_copy_is_equal_and_independent() -> None:
    state = _state()
    copied = copy_to_cpu(state)
    state["weights"]["a"].zero_()
    state["nested"][1].right.append(3)
    assert torch.equal(copied["weights"]["a"], torch.ones(2, 3))
    assert copied["nested"][1].right == [1, 2]
    assert not copied["nested"][0][0].requires_grad
    assert (copied["nested"][0][1], copied["step"], copied["none"]) == ("text", 7, None)
    assert isinstance(copied["weights"], OrderedDict)


def test_only_memory_that_training_changes_is_copied() -> None:
    weight, fresh = torch.ones(2, 3), torch.ones(4)
    tree = {"row": weight[1], "all": weight, "fresh": fresh}
    copied = copy_to_cpu(tree, shared_with=[weight])
    weight.zero_()
    assert torch.equal(copied["row"], torch.ones(3))
    assert torch.equal(copied["all"], torch.ones(2, 3))
    assert copied["fresh"].data_ptr() == fresh.data_ptr()


def test_bytes_of_all_tensors_are_counted() -> None:
    assert count_bytes(_state()) == 4 * 6 + 2 * 4 + 4 * 1 + 4 * 2
    assert count_bytes({"step": 7}) == 0

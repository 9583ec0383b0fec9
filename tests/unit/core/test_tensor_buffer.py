"""Tensors in one buffer: unchanged, aligned, and not copied twice."""

import pytest
import torch

from core.tensor_buffer import pack_tensors


def some_tensors() -> list[torch.Tensor]:
    return [
        torch.arange(7),
        torch.arange(6, dtype=torch.float32).view(2, 3).t(),
        torch.tensor([], dtype=torch.int64),
        torch.tensor(3, dtype=torch.int32),
        torch.full((2, 3, 5), 255, dtype=torch.uint8),
        torch.ones(3, dtype=torch.bfloat16),
    ]


def test_tensors_come_out_as_they_went_in() -> None:
    tensors = some_tensors()
    buffer, places = pack_tensors(tensors)
    for tensor, place in zip(tensors, places, strict=True):
        found = place.view(buffer)
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found, tensor)
        assert place.start % 64 == 0
        assert found.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()


def test_views_of_a_buffer_are_not_copied_again() -> None:
    buffer, places = pack_tensors(some_tensors())
    views = [place.view(buffer) for place in places]
    again, same_places = pack_tensors(views)
    assert again.data_ptr() == buffer.data_ptr()
    assert same_places == places
    other, _ = pack_tensors([*views, torch.ones(1)])
    assert other.data_ptr() != buffer.data_ptr()


@pytest.mark.parametrize("tensors", [[], [torch.empty(0)]])
def test_nothing_takes_no_memory(tensors: list[torch.Tensor]) -> None:
    buffer, places = pack_tensors(tensors)
    assert buffer.numel() == 0
    assert [place.view(buffer).shape for place in places] == [tensor.shape for tensor in tensors]

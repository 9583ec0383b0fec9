"""Casts to 16 bits leave a model that computes."""

import pytest
import torch
from torch import nn

from models.freezing import cast_all, cast_frozen


def conv_tower() -> nn.Module:
    """Return a frozen convolution with a batch norm, as in the embedded tower."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval().requires_grad_(False)


@pytest.mark.parametrize("cast", [cast_all, cast_frozen])
def test_batch_norms_keep_the_type_of_their_statistics(cast) -> None:
    tower, pixels_NCHW = conv_tower(), torch.rand(2, 3, 8, 8)
    expected = tower(pixels_NCHW)
    cast(tower, torch.bfloat16)
    convolution, norm = tower
    assert convolution.weight.dtype is torch.bfloat16
    assert {norm.weight.dtype, norm.running_mean.dtype} == {torch.float32}
    result = tower(pixels_NCHW.bfloat16())
    assert result.dtype is torch.bfloat16
    assert torch.allclose(result.float(), expected, atol=0.05)

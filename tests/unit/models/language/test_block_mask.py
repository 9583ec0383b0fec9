"""The block mask of packed rows equals torch's, which evaluates every pair of positions."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from models.language.block_mask import block_mask
from tests.support.models.tiny_vlm import packed, random_rows

pytestmark = pytest.mark.gpu_path

SHAPES = [(1, 1024), (2, 640), (3, 517), (1, 60), (2, 130)]


@pytest.mark.parametrize("with_branches", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_are_those_of_the_evaluated_mask(
    shape: tuple[int, int], *, with_branches: bool
) -> None:
    for seed in range(4):
        batch = random_rows(*shape, seed=seed, with_branches=with_branches)
        assert batch.has_branches is with_branches or shape == (1, 60)
        with torch.autocast("cpu", torch.bfloat16):  # as in training; counts stay exact
            ours = block_mask(batch)
        theirs = create_block_mask(ours.mask_mod, shape[0], None, shape[1], shape[1], device="cpu")
        assert ours.seq_lengths == theirs.seq_lengths
        assert ours.BLOCK_SIZE == theirs.BLOCK_SIZE
        for name in ("kv", "full_kv", "q", "full_q"):
            for part in (f"{name}_num_blocks", f"{name}_indices"):
                assert torch.equal(getattr(ours, part), getattr(theirs, part)), (seed, part)


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the largest number of elements of any result."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        del types
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.num_elements = max(self.num_elements, value.numel())
        return result


def test_no_temporary_tensor_is_quadratic_in_the_row() -> None:
    batch = random_rows(1, 4096, seed=0, with_branches=True)
    with LargestTensor() as largest:
        block_mask(batch)
    assert largest.num_elements < 4096**2 / 100
    with LargestTensor() as small:
        block_mask(packed(with_branches=True))
    assert small.num_elements < 24**2

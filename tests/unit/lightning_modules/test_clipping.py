"""Clipping of gradients: the same values as one by one, in few operations for sharded ones."""

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils._python_dispatch import TorchDispatchMode

from configuration.run_config import INSTRUCT_POLICY
from lightning_modules.optim import OptimConfig
from lightning_modules.vlm_module import VlmModule
from models.sharding import gather_tensor, shard_model
from tests.support.models.tiny_vlm import build_model, one_rank, packed

pytestmark = pytest.mark.gpu_path


class CountedOperations(TorchDispatchMode):
    """Counts operations by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        del types
        self.counts[func.__name__.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def clip(module: VlmModule) -> torch.Tensor:
    """Compute gradients and clip them to a norm of 1."""
    module.zero_grad()
    module(packed(with_branches=True, with_image=True)).backward()
    groups = [{"params": [p for p in module.parameters() if p.requires_grad]}]
    optimizer = cast(Any, SimpleNamespace(param_groups=groups))
    return module._clip_gradients(optimizer, torch.zeros(()))


def module_of(**optim: float) -> VlmModule:
    config = OptimConfig(lr=1e-3, **optim)  # type: ignore[arg-type]
    return VlmModule(build_model(), policy=INSTRUCT_POLICY, optim=config, num_steps=1)


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_clipping_equals_that_of_single_gradients_bitwise(limit: float) -> None:
    module, other = module_of(grad_clip=limit), module_of(grad_clip=limit)
    norm = clip(module)
    other(packed(with_branches=True, with_image=True)).backward()
    parameters = list(other.parameters())
    bound = limit or float("inf")
    expected = torch.nn.utils.clip_grad_norm_(parameters, bound, foreach=False)
    assert torch.equal(norm, expected)
    assert float(norm) > 1.0
    for ours, theirs in zip(module.parameters(), parameters, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


def test_sharded_gradients_are_clipped_together() -> None:
    """Operations on sharded tensors take long on the host; one by one there are two a weight.

    torch chooses the joint operations itself if it knows them for the type and device.
    """
    expected = clip(module_of(grad_clip=1.0))
    with one_rank() as mesh:
        module = module_of(grad_clip=1.0)
        shard_model(module.model, mesh, MixedPrecisionPolicy())
        module(packed(with_branches=True, with_image=True)).backward()
        with CountedOperations() as operations:
            groups = [{"params": list(module.parameters())}]
            optimizer = cast(Any, SimpleNamespace(param_groups=groups))
            norm = module._clip_gradients(optimizer, torch.zeros(()))
        torch.testing.assert_close(gather_tensor(norm), expected)
        assert operations.counts["_foreach_norm"] >= 1
        assert operations.counts["linalg_vector_norm"] <= 2, "that of the norms"
        assert operations.counts["mul_"] == 0

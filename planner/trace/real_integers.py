"""Real integers next to fake floating-point tensors, for models whose shapes depend on integers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_BY_MASK = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default,
            torch.ops.aten.index_put_.default)  # fmt: skip


class RealIntegers(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's __init_subclass__
    """Computes operations on real tensors for real, and makes them fake beside fake ones.

    Vision-language models read the sizes of images from tensors: how many visual tokens an image
    has, where its placeholders are. Such tensors are small and stay real; weights and activations
    are fake. Enter it inside the mode of the fake tensors.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mode = mode

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation on real numbers if no argument is fake and the result is an integer."""
        del types
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            if func in _BY_MASK:
                args = (args[0], _as_numbers(args[1]), *args[2:])
            args, kwargs = tree_map_only(torch.Tensor, self._to_fake, (args, kwargs))
            return func(*args, **kwargs)
        if not tensors:  # makes a tensor; its type is known afterwards
            result = func(*args, **kwargs)
            if not isinstance(result, torch.Tensor) or result.is_floating_point():
                return result
        with unset_fake_temporarily():
            return func(*args, **kwargs)

    def _to_fake(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self._mode.from_tensor(tensor)


def _as_numbers(indices: Sequence[Any]) -> list[Any]:
    """Replace real masks by the positions that they select, whose number must be known."""
    found: list[Any] = []
    for index in indices:
        if isinstance(index, torch.Tensor) and index.dtype == torch.bool:
            with unset_fake_temporarily():
                found += index.nonzero().unbind(1)
        else:
            found.append(index)
    return found

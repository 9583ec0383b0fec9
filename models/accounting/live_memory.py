"""Live memory of a computation on fake tensors, by part and by phase.

PyTorch's own trackers (`torch.distributed._tools`) reject frozen parameters and steps of several
micro-batches, which every stage here has.
"""

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's __init_subclass__
    """Bytes of the storages that are alive, by the part of the step that created them.

    Storages are counted once, however many tensors view them, from the operation that creates them
    until Python and autograd have dropped the last reference, as an allocator would without
    fragments and reserves. Memory that a kernel uses internally is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: Counter[str] = Counter()
        """Part -> live bytes."""
        self.peaks: dict[str, Mapping[str, int]] = {}
        """Phase -> bytes of every part when the sum was largest in this phase."""
        self.phase = ""
        """Current phase; peaks are kept for each."""
        self.part = ""
        """Part to which new storages are attributed."""
        self._storages: dict[int, tuple[weakref.ref[Any], int, str]] = {}
        self._copied: set[int] = set()
        self._total = 0
        self._largest: Counter[str] = Counter()

    @contextlib.contextmanager
    def creating(self, part: str) -> Iterator[None]:
        """Attribute the storages that the body creates to a part."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def enter(self, phase: str, *, part: str) -> None:
        """Start a phase and attribute new storages to a part; the peak begins with the present."""
        self.phase, self.part = phase, part
        self._keep_peak()

    def attribute(self, tensor: torch.Tensor, part: str) -> None:
        """Attribute the storage of a tensor to a part; count it if it is not known."""
        for storage in _storages_of(tensor):
            entry = self._storages.get(storage._cdata)
            if entry is None:
                self._add(storage, part)
                continue
            reference, size, old = entry
            self._storages[storage._cdata] = (reference, size, part)
            self._change(old, -size)
            self._change(part, size)

    def attribute_copies_of(self, tensor: torch.Tensor) -> None:
        """Attribute casts of a tensor (autocast's cache of weights) to the part `16-bit copies`."""
        self._copied |= {storage._cdata for storage in _storages_of(tensor)}

    def __enter__(self) -> Self:
        """Count from here on, including what FSDP2 frees and allocates by resizing storages."""
        self._resize = torch.UntypedStorage.resize_
        torch.UntypedStorage.resize_ = self._resized(self._resize)  # type: ignore[method-assign]
        return cast(Self, super().__enter__())  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        """Stop counting."""
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count the storages of its results."""
        del types
        result = func(*args, **(kwargs or {}))
        part = self.part
        if func is torch.ops.aten._to_copy.default:
            sources = {storage._cdata for storage in _storages_of(args[0])}
            part = "16-bit copies" if sources & self._copied else part
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                for storage in _storages_of(tensor):
                    self._add(storage, part)
        return result

    def _add(self, storage: torch.UntypedStorage, part: str) -> None:
        key = storage._cdata
        if key in self._storages:
            return
        size = storage.nbytes()
        self._storages[key] = (weakref.ref(storage, self._forget(key)), size, part)
        self._change(part, size)

    def _forget(self, key: int) -> Callable[[Any], None]:
        def forget(_reference: Any) -> None:
            _, size, part = self._storages.pop(key)
            self._change(part, -size)

        return forget

    def _resized(self, resize: Callable[..., Any]) -> Callable[..., Any]:
        def resize_(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            if (entry := self._storages.get(storage._cdata)) is None:
                self._add(storage, self.part)
                return result
            reference, before, part = entry
            self._storages[storage._cdata] = (reference, size, part)
            self._change(part, size - before)
            return result

        return resize_

    def _change(self, part: str, num_bytes: int) -> None:
        self.live[part] += num_bytes
        self._total += num_bytes
        if num_bytes > 0:
            self._keep_peak()

    def _keep_peak(self) -> None:
        if self._total >= self._largest[self.phase]:
            self._largest[self.phase] = self._total
            self.peaks[self.phase] = dict(self.live)


def _storages_of(tensor: Any) -> list[torch.UntypedStorage]:
    """Return the storages behind a tensor: those of its parts, if it is sharded or in float8."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor.untyped_storage()]
    inner = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
    return [s for part in inner if isinstance(part, torch.Tensor) for s in _storages_of(part)]

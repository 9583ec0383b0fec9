"""Imports without Python's garbage collection, which would take a third of their time.

The libraries of a command create millions of objects that live as long as its process, and while
they load, Python searches all of them for garbage again and again.
"""

import contextlib
import gc
from collections.abc import Iterator


def pause_collection() -> None:
    """Collect no garbage until `resume_collection`."""
    gc.disable()


def resume_collection() -> None:
    """Collect garbage again, among objects created from now on; no effect if it was not paused.

    The usual thresholds apply: tensors of a device in reference cycles are freed as before. Forked
    processes share the memory of the older objects, because no search writes to them.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Import heavy modules inside of this context."""
    is_outermost = gc.isenabled()
    pause_collection()
    try:
        yield
    finally:
        if is_outermost:
            resume_collection()

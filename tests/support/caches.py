"""Caches of functions, which hold results of files of earlier tests."""

import sys

_PACKAGES = ("pipeline", "planner")


def clear_caches() -> None:
    """Forget what cached functions of the project returned; a command starts without it."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _PACKAGES:
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()

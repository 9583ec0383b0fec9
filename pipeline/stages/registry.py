"""The stage kinds: every `Stage` that a module of this package defines."""

import graphlib
import importlib
import inspect
import pkgutil
from functools import cache

from core.errors import CheckpointError, unknown_name
from pipeline import stages
from pipeline.stages.base import Stage


@cache
def stage_kinds() -> dict[str, type[Stage]]:
    """Return the stage kinds by name; a kind comes after those that it may read.

    Raises:
        TypeError: If two classes have the same kind.
    """
    found: dict[str, type[Stage]] = {}
    for info in sorted(pkgutil.iter_modules(stages.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{stages.__name__}.{info.name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            if member.__module__ != module.__name__ or not issubclass(member, Stage):
                continue
            if inspect.isabstract(member) or "kind" not in vars(member):
                continue
            if member.kind in found:
                raise TypeError(f"stage kind '{member.kind}': {found[member.kind]} and {member}")
            found[member.kind] = member
    order = graphlib.TopologicalSorter({kind: found[kind].upstream for kind in found})
    return {kind: found[kind] for kind in order.static_order()}


def stage_class(kind: str) -> type[Stage]:
    """Return the class of a kind.

    Raises:
        CheckpointError: If no file defines this kind (any more).
    """
    if kind not in stage_kinds():
        raise CheckpointError(unknown_name("stage kind", kind, stage_kinds()))
    return stage_kinds()[kind]

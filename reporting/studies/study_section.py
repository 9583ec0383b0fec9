"""The form of a study's section, and all sections that apply to a grid.

A module of this package with a function `section(grid, view)` is found automatically. It returns
None for grids to which it does not apply, so that a new study edits no other file.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from reporting import studies
from reporting.records import GridRecord
from reporting.series import View


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFigure:
    """One diagram."""

    title: str
    note: str
    svg: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyTable:
    """One table; cells are formatted texts."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySection:
    """One section of the page."""

    key: str
    """Anchor of the section on the page."""
    title: str
    note: str
    sentences: tuple[str, ...] = ()
    figures: tuple[StudyFigure, ...] = ()
    tables: tuple[StudyTable, ...] = ()


def study_sections(grid: GridRecord, view: View) -> list[StudySection]:
    """Return the sections of all studies that apply to a grid."""
    found: Sequence[StudySection | None] = [
        module.section(grid, view) for module in _study_modules()
    ]
    return [one for one in found if one is not None]


@cache
def _study_modules() -> tuple[ModuleType, ...]:
    names = sorted(info.name for info in pkgutil.iter_modules(studies.__path__))
    modules = [importlib.import_module(f"{studies.__name__}.{name}") for name in names]
    return tuple(module for module in modules if hasattr(module, "section"))

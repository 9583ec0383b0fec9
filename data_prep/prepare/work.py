"""The plan of a preparation as it lies on disk, and where every task keeps what it did."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.config import load_config, to_plain
from core.errors import ConfigError
from core.io.files import atomic_write_text
from data_prep.prepare.recipe import Kind, PrepareConfig, SourceRecipe
from data_prep.prepare.rows import Part

PLAN = "plan.json"
COLLECTED = "collected.json"
PRODUCED = "produced.json"
ITEMS = "items.jsonl"
IMAGES = "images"
DUPLICATES = "duplicates.json"
JOINED = "joined.sqlite"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourcePlan:
    """One source as it is to be prepared."""

    name: str
    """Of its tasks and shards."""
    title: str
    """Of its manifests: the language follows."""
    recipe: SourceRecipe
    language: str
    """Of its rows."""
    target: str
    """Language to add by translation; empty: none."""
    parts: list[Part]

    @property
    def is_joined(self) -> bool:
        """Whether its translation lies in another place and is found by a key."""
        published = self.recipe.published.get(self.target)
        return published is not None and bool(published.place)

    @property
    def is_translated(self) -> bool:
        """Whether we translate it ourselves."""
        return bool(self.target) and self.target not in self.recipe.published

    @property
    def languages(self) -> tuple[str, ...]:
        """Of what is written."""
        return (self.language, self.target) if self.target else (self.language,)

    @property
    def num_rows(self) -> int:
        """Rows in all parts."""
        return sum(part.count for part in self.parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkPlan:
    """All that is to be done, and for whom."""

    out: Path
    recipe: str
    language: str
    limit: int
    """Rows of each source; 0: all."""
    config: PrepareConfig
    recipes: dict[str, SourceRecipe]
    """As they were given; `sources` are what came of them."""
    sources: tuple[SourcePlan, ...]

    @property
    def work(self) -> Path:
        """Folder of what is not the result."""
        return self.out / "work"

    def folder(self, source: SourcePlan, part: int) -> Path:
        """Of a task."""
        return self.work / source.name / f"{part:05d}"

    def tasks(self) -> list[tuple[SourcePlan, int]]:
        """(source, number of its part), in order."""
        return [(source, part) for source in self.sources for part in range(len(source.parts))]

    def benchmarks_first(self) -> Iterator[SourcePlan]:
        """Sources, benchmarks before what is trained on."""
        yield from sorted(self.sources, key=lambda s: s.recipe.kind is not Kind.BENCHMARK)

    def save(self) -> None:
        """Write the plan; one that was begun must be the same.

        Raises:
            ConfigError: another plan was begun in this folder.
        """
        path = self.work / PLAN
        mine = to_plain(self._saved())
        if path.is_file() and (old := json.loads(path.read_text(encoding="utf-8"))) != mine:
            changed = sorted(set(_differing(old, mine)))
            raise ConfigError(
                f"{self.out} was begun with other settings ({', '.join(changed[:6])}); go on with "
                "those, or name another --out"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps(mine, ensure_ascii=False, indent=1) + "\n")

    def _saved(self) -> "_Saved":
        # Without the folder, which may be moved.
        return _Saved(
            recipe=self.recipe, language=self.language, limit=self.limit, config=self.config,
            recipes=self.recipes, sources=list(self.sources),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Saved:
    recipe: str
    language: str
    limit: int
    config: PrepareConfig
    recipes: dict[str, SourceRecipe]
    sources: list[SourcePlan]


def load_plan(out: Path) -> WorkPlan:
    """The plan that was begun in a folder.

    Raises:
        ConfigError: none was.
    """
    path = out / "work" / PLAN
    if not path.is_file():
        raise ConfigError(f"nothing was prepared in {out}: no {path}")
    saved = load_config(_Saved, path)
    return WorkPlan(
        out=out, recipe=saved.recipe, language=saved.language, limit=saved.limit,
        config=saved.config, recipes=saved.recipes, sources=tuple(saved.sources),
    )  # fmt: skip


def _differing(old: Any, new: Any, where: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() | new.keys():
            yield from _differing(old.get(name), new.get(name), f"{where}.{name}".lstrip("."))
    elif old != new:
        yield where

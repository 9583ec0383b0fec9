"""The plan of a preparation on disk, and the folders in which its tasks save their results."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.config import load_config, to_plain
from core.errors import ConfigError
from core.io.files import atomic_write_text
from core.io.reading import read_json_file, reading
from data_prep.prepare.reading.rows import Part
from data_prep.prepare.recipe import Kind, PrepareConfig, SourceRecipe

PLAN = "plan.json"
COLLECTED = "collected.json"
PRODUCED = "produced.json"
ITEMS = "items.jsonl"
IMAGES = "images"
DUPLICATES = "duplicates.json"
JOINED = "joined.sqlite"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourcePlan:
    """Plan of one source."""

    name: str
    """Prefix of its task folders and shards."""
    title: str
    """Prefix of its manifests, which the language follows."""
    recipe: SourceRecipe
    language: str
    """Language of its rows."""
    target: str
    """Language of the translation; empty for none."""
    parts: list[Part]

    @property
    def is_joined(self) -> bool:
        """True if a published translation in another location is joined by key."""
        published = self.recipe.published.get(self.target)
        return published is not None and bool(published.place)

    @property
    def is_translated(self) -> bool:
        """True if this preparation translates the source."""
        return bool(self.target) and self.target not in self.recipe.published

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of the written samples."""
        return (self.language, self.target) if self.target else (self.language,)

    @property
    def num_rows(self) -> int:
        """Number of rows in all parts."""
        return sum(part.count for part in self.parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkPlan:
    """Plan of a preparation: its settings and the plan of every source."""

    out: Path
    recipe: str
    language: str
    limit: int
    """Maximum number of rows of each source; 0 means all."""
    config: PrepareConfig
    recipes: dict[str, SourceRecipe]
    """The sources as the recipe gives them; `sources` is the plan made from them."""
    sources: tuple[SourcePlan, ...]

    @property
    def work(self) -> Path:
        """Folder of the intermediate results."""
        return self.out / "work"

    def folder(self, source: SourcePlan, part: int) -> Path:
        """Return the folder of the task for a part."""
        return self.work / source.name / f"{part:05d}"

    def tasks(self) -> list[tuple[SourcePlan, int]]:
        """Return (source, index of a part) of every task, in order."""
        return [(source, part) for source in self.sources for part in range(len(source.parts))]

    def benchmarks_first(self) -> Iterator[SourcePlan]:
        """Yield the sources, benchmarks before training data."""
        yield from sorted(self.sources, key=lambda s: s.recipe.kind is not Kind.BENCHMARK)

    def save(self) -> None:
        """Write the plan, or check that it equals the plan in the folder.

        Raises:
            ConfigError: If the folder holds a plan with other settings.
        """
        path = self.work / PLAN
        new = to_plain(self._to_saved())
        fix = f"remove {self.work}, or choose another --out"
        if path.is_file() and (old := read_json_file(path, fix=fix)) != new:
            with reading(path, fix=fix):
                changed = sorted(set(_differing_fields(old, new)))
            raise ConfigError(
                f"{self.out} was started with other settings ({', '.join(changed[:6])}); use "
                "those, or choose another --out"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps(new, ensure_ascii=False, indent=1) + "\n")

    def _to_saved(self) -> "_SavedPlan":
        # The output folder is not saved, because it may be moved.
        return _SavedPlan(
            recipe=self.recipe,
            language=self.language,
            limit=self.limit,
            config=self.config,
            recipes=self.recipes,
            sources=list(self.sources),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SavedPlan:
    recipe: str
    language: str
    limit: int
    config: PrepareConfig
    recipes: dict[str, SourceRecipe]
    sources: list[SourcePlan]


def load_plan(out: Path) -> WorkPlan:
    """Load the plan of the preparation in a folder.

    Raises:
        ConfigError: If the folder has no plan.
    """
    path = out / "work" / PLAN
    if not path.is_file():
        raise ConfigError(f"{out} has no plan {path}; run data_prep.prepare with --out {out} first")
    saved = load_config(_SavedPlan, path)
    return WorkPlan(
        out=out,
        recipe=saved.recipe,
        language=saved.language,
        limit=saved.limit,
        config=saved.config,
        recipes=saved.recipes,
        sources=tuple(saved.sources),
    )


def _differing_fields(old: Any, new: Any, where: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() | new.keys():
            yield from _differing_fields(
                old.get(name), new.get(name), f"{where}.{name}".lstrip(".")
            )
    elif old != new:
        yield where

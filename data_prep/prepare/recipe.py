"""Recipes of data preparation: a YAML file per source, and one per recipe that combines them."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from core.config import load_config
from core.errors import ConfigError, unknown_name
from core.file_names import FILE_NAME, FILE_NAME_ADVICE
from data_prep.prepare.benchmark_recipe import BenchmarkRecipe
from data_prep.prepare.fetch import FetchConfig
from data_prep.prepare.recipe_folders import BENCHMARK_RECIPES, PREPARE_RECIPES, SOURCES
from data_prep.prepare.translation.quality import QualityConfig
from data_prep.prepare.translation.translators import TranslateConfig


class Kind(StrEnum):
    """The kind of record that a row becomes."""

    CAPTION = "caption"
    """An image and its caption."""
    QA = "qa"
    """An image, a question and an answer."""
    CHAT = "chat"
    """A conversation (LLaVA's `conversations` or `messages`), with or without an image."""
    BENCHMARK = "benchmark"
    """A benchmark question; its columns are described in `data_prep/benchmarks/`."""


_COLUMN_ROLES: dict[Kind, tuple[frozenset[str], frozenset[str]]] = {
    Kind.CAPTION: (frozenset({"caption"}), frozenset({"image", "image_url", "sha256", "key"})),
    Kind.QA: (
        frozenset({"question", "answer"}),
        frozenset({"image", "image_url", "sha256", "key"}),
    ),
    Kind.CHAT: (frozenset({"conversation"}), frozenset({"image", "image_url", "sha256", "key"})),
    Kind.BENCHMARK: (frozenset(), frozenset({"image_url"})),
}
"""Required and optional columns of each kind."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A published translation of a source."""

    place: str = ""
    """Location of the translation; empty if it is in other columns of the same rows."""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Columns whose name differs from the source's; an empty name means that it is missing."""
    by_place: bool = False
    """Match rows by their number, for datasets without a key."""
    alone: bool = False
    """The rows of the translation do not correspond to rows of the source."""
    leave_out: dict[str, str] = dataclasses.field(default_factory=dict)
    licence: str = ""
    """Licence of the translation if it differs from the source's."""

    def __post_init__(self) -> None:
        """Validate the rules."""
        _check_patterns(self.leave_out)

    def renamed(self, columns: Mapping[str, str]) -> dict[str, str]:
        """Return the source's columns under their names in the translation."""
        return {role: name for role, name in {**columns, **self.columns}.items() if name}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceRecipe:
    """A published dataset."""

    kind: Kind
    place: str
    """File, glob or URL (fsspec: https://, s3://, hf://datasets/OWNER/NAME@REVISION/...) of
    .parquet, .jsonl, .json (a list), .tsv, .csv or .tar (WebDataset) files."""
    licence: str
    attribution: str = ""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Role of a column -> its name; columns of a .tsv without a header are `0`, `1`, ..."""
    has_head: bool = True
    """True if the first line of a .tsv names the columns."""
    benchmark: str = ""
    """Name of a file in `data_prep/benchmarks/`, for kind `benchmark`."""
    published: dict[str, Published] = dataclasses.field(default_factory=dict)
    """Language -> published translation, which is used instead of translating."""
    leave_out: dict[str, str] = dataclasses.field(default_factory=dict)
    """Column -> regular expression: rows that match it are left out and counted."""

    def __post_init__(self) -> None:
        """Validate the columns and the rules."""
        _check_patterns(self.leave_out)
        needed, allowed = _COLUMN_ROLES[self.kind]
        for name in self.columns:
            if name not in needed | allowed:
                raise ConfigError(unknown_name("column", name, needed | allowed))
        if missing := needed - self.columns.keys():
            raise ConfigError(f"kind '{self.kind}' needs the columns {', '.join(sorted(missing))}")
        images = {"image", "image_url"} & self.columns.keys()
        if self.kind in (Kind.CAPTION, Kind.QA) and len(images) != 1:
            raise ConfigError(
                f"kind '{self.kind}' needs exactly one of the columns image and image_url"
            )
        if (self.kind is Kind.BENCHMARK) != bool(self.benchmark):
            raise ConfigError(
                f"kind '{self.kind}' with benchmark '{self.benchmark}': set `benchmark` if and "
                "only if the kind is benchmark"
            )

    @cached_property  # every row of the source asks for it
    def benchmark_recipe(self) -> BenchmarkRecipe:
        """The recipe that describes the rows of the benchmark."""
        path = BENCHMARK_RECIPES / f"{self.benchmark}.yaml"
        if not path.is_file():
            known = sorted(p.stem for p in BENCHMARK_RECIPES.glob("*.yaml"))
            raise ConfigError(unknown_name("benchmark recipe", self.benchmark, known))
        return load_config(BenchmarkRecipe, path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """A recipe: the sources to prepare and the settings of every step."""

    sources: list[str]
    base: str = "en"
    """Language of the sources."""
    per_part: int = 5000
    """Rows per task, the unit of work that is repeated if a task is lost entirely."""
    per_shard: int = 1000
    """Samples per shard."""
    validate: int = 200
    """Translated items of each source that are drawn for annotators to check."""
    fetch: FetchConfig = dataclasses.field(default_factory=FetchConfig)
    translate: TranslateConfig = dataclasses.field(default_factory=TranslateConfig)
    quality: QualityConfig = dataclasses.field(default_factory=QualityConfig)

    def __post_init__(self) -> None:
        """Validate the sizes and the names, after which files are named."""
        for name in self.sources:
            if FILE_NAME.fullmatch(name) is None:
                raise ConfigError(f"source {name!r}: {FILE_NAME_ADVICE}")
            if self.sources.count(name) > 1:
                raise ConfigError(f"source '{name}' is listed twice; remove one")
        if min(self.per_part, self.per_shard) < 1 or self.validate < 0:
            raise ConfigError("per_part and per_shard must be at least 1, validate at least 0")


def _check_patterns(rules: Mapping[str, str]) -> None:
    for column, pattern in rules.items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(
                f"leave_out.{column}: {pattern!r} is not a regular expression ({error}); correct it"
            ) from error


def load_recipe(
    name: str, overrides: Sequence[str]
) -> tuple[PrepareConfig, dict[str, SourceRecipe]]:
    """Load a recipe and its sources, and apply the overrides to both.

    Args:
        name: Name of a recipe in `data_prep/recipes/`, or a YAML file.
        overrides: `field=value` for the recipe, `SOURCE.field=value` for one of its sources.

    Raises:
        ConfigError: If a recipe, source or field is unknown.
    """
    known = {path.stem: path for path in PREPARE_RECIPES.glob("*.yaml")}
    path = known.get(name, Path(name))
    if not path.is_file():
        raise ConfigError(unknown_name("recipe", name, known))
    names = set(load_config(PrepareConfig, path).sources)
    recipe_overrides = [o for o in overrides if o.partition(".")[0] not in names]
    config = load_config(PrepareConfig, path, overrides=recipe_overrides)
    sources = {}
    for source in config.sources:
        file = SOURCES / f"{source}.yaml"
        beside = path.parent / f"{source}.yaml"
        chosen = beside if path not in known.values() and beside.is_file() else file
        if not chosen.is_file():
            raise ConfigError(
                unknown_name("source", source, {p.stem for p in SOURCES.glob("*.yaml")})
            )
        prefix = f"{source}."
        source_overrides = [o.removeprefix(prefix) for o in overrides if o.startswith(prefix)]
        sources[source] = load_config(SourceRecipe, chosen, overrides=source_overrides)
    return config, sources

"""What is prepared and how: one YAML per source, one per recipe that puts sources together."""

import dataclasses
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from core.config import load_config
from core.errors import ConfigError, unknown_name
from data_prep.prepare.benchmark_recipe import BENCHMARK_RECIPES, BenchmarkRecipe
from data_prep.prepare.fetch import FetchConfig
from data_prep.prepare.quality import QualityConfig
from data_prep.prepare.translators import TranslateConfig

SOURCES = Path(__file__).parents[1] / "sources"
RECIPES = Path(__file__).parents[1] / "recipes"


class Kind(StrEnum):
    """What a row becomes."""

    CAPTION = "caption"
    """An image and what it shows."""
    QA = "qa"
    """An image, a question, an answer."""
    CHAT = "chat"
    """A conversation (LLaVA's `conversations` or `messages`), with or without an image."""
    BENCHMARK = "benchmark"
    """A question of a benchmark; its columns are those of `data_prep/benchmarks/`."""


_ROLES: dict[Kind, tuple[frozenset[str], frozenset[str]]] = {
    Kind.CAPTION: (frozenset({"caption"}), frozenset({"image", "image_url", "sha256", "key"})),
    Kind.QA: (
        frozenset({"question", "answer"}),
        frozenset({"image", "image_url", "sha256", "key"}),
    ),
    Kind.CHAT: (frozenset({"conversation"}), frozenset({"image", "image_url", "sha256", "key"})),
    Kind.BENCHMARK: (frozenset(), frozenset({"image_url"})),
}
"""Columns a kind must name, and those it may."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A translation that others made."""

    place: str = ""
    """Where; empty: in other columns of the same rows."""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """What of the source's columns is called otherwise there; empty: what is not there."""
    by_place: bool = False
    """Its n-th row belongs to the source's n-th row: for sets without a key."""
    alone: bool = False
    """A set of its own: its rows do not belong to rows of the source."""
    leave_out: dict[str, str] = dataclasses.field(default_factory=dict)
    licence: str = ""
    """If it differs."""

    def renamed(self, columns: Mapping[str, str]) -> dict[str, str]:
        """The source's columns as they are called here."""
        return {role: name for role, name in {**columns, **self.columns}.items() if name}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceRecipe:
    """One published data set."""

    kind: Kind
    place: str
    """File, pattern of files or URL (fsspec: https://, s3://, hf://datasets/OWNER/NAME@REVISION/...):
    .parquet, .jsonl, .json (a list), .tsv, .csv or .tar (WebDataset)."""
    licence: str
    attribution: str = ""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """What a kind needs -> its column; for .tsv without a head, `0`, `1` and so on."""
    has_head: bool = True
    """Whether the first line of a .tsv names the columns."""
    benchmark: str = ""
    """For kind `benchmark`: a file of `data_prep/benchmarks/`."""
    published: dict[str, Published] = dataclasses.field(default_factory=dict)
    """Language -> translation by others, taken instead of a translation of ours."""
    leave_out: dict[str, str] = dataclasses.field(default_factory=dict)
    """Column -> regular expression: rows that match it are left out, and counted."""

    def __post_init__(self) -> None:
        """Check the columns."""
        needed, allowed = _ROLES[self.kind]
        for name in self.columns:
            if name not in needed | allowed:
                raise ConfigError(unknown_name("column", name, needed | allowed))
        if missing := needed - self.columns.keys():
            raise ConfigError(f"kind '{self.kind}' needs the columns {', '.join(sorted(missing))}")
        images = {"image", "image_url"} & self.columns.keys()
        if self.kind in (Kind.CAPTION, Kind.QA) and len(images) != 1:
            raise ConfigError(f"kind '{self.kind}' needs one of the columns image and image_url")
        if (self.kind is Kind.BENCHMARK) != bool(self.benchmark):
            raise ConfigError("kind: benchmark and a `benchmark` go together")

    @property
    def benchmark_recipe(self) -> BenchmarkRecipe:
        """How the rows of a benchmark are read."""
        path = BENCHMARK_RECIPES / f"{self.benchmark}.yaml"
        if not path.is_file():
            known = sorted(p.stem for p in BENCHMARK_RECIPES.glob("*.yaml"))
            raise ConfigError(unknown_name("benchmark recipe", self.benchmark, known))
        return load_config(BenchmarkRecipe, path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """A recipe: which sources, and what is done to them."""

    sources: list[str]
    base: str = "en"
    """Language of the sources."""
    per_part: int = 5000
    """Rows of one task: what is done again if a task is lost without a trace."""
    per_shard: int = 1000
    validate: int = 200
    """Translated items of each source that are drawn for people to check."""
    fetch: FetchConfig = dataclasses.field(default_factory=FetchConfig)
    translate: TranslateConfig = dataclasses.field(default_factory=TranslateConfig)
    quality: QualityConfig = dataclasses.field(default_factory=QualityConfig)

    def __post_init__(self) -> None:
        """Check the sizes."""
        if min(self.per_part, self.per_shard) < 1 or self.validate < 0:
            raise ConfigError("per_part and per_shard must be at least 1, validate at least 0")


def load_recipe(
    name: str, overrides: Sequence[str]
) -> tuple[PrepareConfig, dict[str, SourceRecipe]]:
    """A recipe and its sources, with `--set` applied to both (`NAME.field=value` for a source).

    Raises:
        ConfigError: unknown recipe, source or field.
    """
    known = {path.stem: path for path in RECIPES.glob("*.yaml")}
    path = known.get(name, Path(name))
    if not path.is_file():
        raise ConfigError(unknown_name("recipe", name, known))
    names = set(load_config(PrepareConfig, path).sources)
    mine = [o for o in overrides if o.partition(".")[0] not in names]
    config = load_config(PrepareConfig, path, overrides=mine)
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
        theirs = [o.removeprefix(prefix) for o in overrides if o.startswith(prefix)]
        sources[source] = load_config(SourceRecipe, chosen, overrides=theirs)
    return config, sources

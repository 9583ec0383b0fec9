"""Languages and data of a run."""

import dataclasses

from core.errors import ConfigError, unknown_name
from evaluation.benchmarks.items import Benchmark


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguagesConfig:
    """The languages of a study, by CLDR code."""

    base: str = "en"
    """The high-resource language."""
    target: str = "eu"
    """The low-resource language that the study is about."""
    second: str = ""
    """Another target language, of the mixture lines that name it; questions are not asked in it."""

    def __post_init__(self) -> None:
        """Validate that the languages differ."""
        if self.base == self.target:
            both = f"languages.base and languages.target are both '{self.base}'"
            raise ConfigError(f"{both}; set two different languages")
        if self.second in (self.base, self.target):
            raise ConfigError(
                f"languages.second is '{self.second}', as is the base or the target language; set "
                "another one"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpectedSource:
    """Expected size of a source that is not prepared yet; used by dry runs only."""

    num_samples: int
    """Number of samples; for a benchmark, questions in one language."""
    text_tokens: dict[str, float]
    """Language -> mean number of tokens of a sample, with chat markers, without image tokens."""
    loss_tokens: dict[str, float] = dataclasses.field(default_factory=dict)
    """Language -> mean number of loss tokens of a sample."""
    has_images: bool = True
    """Whether samples have images."""
    questions_by_kind: dict[str, int] = dataclasses.field(default_factory=dict)
    """For a benchmark: kind -> number of questions in one language, which sum to `num_samples`."""

    def __post_init__(self) -> None:
        """Validate numeric ranges."""
        if self.num_samples < 1:
            raise ConfigError(f"expected.*.num_samples must be at least 1, got {self.num_samples}")
        if unknown := sorted(self.loss_tokens.keys() - self.text_tokens.keys()):
            raise ConfigError(
                f"expected.*.loss_tokens has '{unknown[0]}', but text_tokens does not; add it there"
            )
        for kind in self.questions_by_kind:
            if kind not in set(Benchmark):
                unknown_kind = unknown_name("kind of benchmark", kind, [k.value for k in Benchmark])
                raise ConfigError(f"expected.*.questions_by_kind: {unknown_kind}")
        total = sum(self.questions_by_kind.values())
        if self.questions_by_kind and total != self.num_samples:
            raise ConfigError(
                f"expected.*.questions_by_kind sums to {total}, but num_samples is "
                f"{self.num_samples}; make them equal"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Location of the data."""

    folder: str = "data/embedded"
    """Folder of the manifests, `{source}_{language}.manifest.json`."""
    folders: list[str] = dataclasses.field(default_factory=list)
    """Further folders, in which manifests that `folder` does not have are looked for, in order."""
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    """Line of a mixture, or source of a line -> location of other data for it: a folder with the
    manifests of one source, FOLDER/NAME, or a manifest; or Parquet files, local or on the hub
    (`converted_tables`). A source in one of the two languages alone is served in that language,
    whatever the share; the share then concerns the other lines."""
    benchmarks: list[str] = dataclasses.field(default_factory=lambda: ["benchmark_test"])
    """Names of the benchmark manifests in that folder. The first is the main one: its metrics have
    no prefix, and a claim that names no benchmark is about it."""
    out_of_domain: list[str] = dataclasses.field(default_factory=list)
    """Names of benchmark manifests in that folder whose images differ in kind from the training
    images. Those that exist are evaluated in a separate stage run, and the report shows them
    separately; a missing one is left out, because they are not shipped."""
    fit_lengths: bool = False
    """Whether rows and replies that are too short for the data become as long as needed. Otherwise,
    they are an error."""
    smoke_sources: dict[str, str] = dataclasses.field(default_factory=dict)
    """Source -> smaller source that the experiments `smoke` and `first_cell` read instead."""
    expected: dict[str, ExpectedSource] = dataclasses.field(default_factory=dict)
    """Name -> source that a dry run may assume before it is prepared."""

    def __post_init__(self) -> None:
        """Validate the lists of benchmarks."""
        if not self.benchmarks:
            raise ConfigError("data.benchmarks is empty; name at least one benchmark manifest")
        named = [*self.benchmarks, *self.out_of_domain]
        if len(set(named)) < len(named):
            raise ConfigError(
                "data.benchmarks and data.out_of_domain name a benchmark twice: "
                f"{', '.join(named)}; keep one"
            )

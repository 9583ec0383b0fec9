"""What a run is: one frozen `RunConfig` per cell of a grid, checked before anything starts.

`RunConfig` is what people write (YAML, `--set`); `specs` makes of it what determines each stage.
"""

import dataclasses
from enum import StrEnum

from configuration.trainer import TrainerConfig
from core.chat.format import TEMPLATES, PromptStyle
from core.errors import ConfigError, unknown_name
from datamodules.mixture.config import ShareOf
from evaluation.retention import RetentionConfig
from lightning_modules.compute import ComputeConfig
from lightning_modules.lowbit import check_combination
from lightning_modules.optim import OptimConfig
from models.connector import ConnectorConfig
from models.freezing import FreezePolicy
from models.language.adapters import TuningConfig
from models.towers.vision_tower import VisionTowerConfig

ALIGN_POLICY = FreezePolicy(connector=True, language_model=False)
"""What stage 1 trains."""
INSTRUCT_POLICY = FreezePolicy(connector=True, language_model=True)
"""What stage 2 trains."""


class Stages(StrEnum):
    """Which training stages a cell goes through."""

    BOTH = "both"
    ALIGN_ONLY = "align_only"
    INSTRUCT_ONLY = "instruct_only"


class TextOnly(StrEnum):
    """Where the samples of text-only data go in an optimizer step."""

    ON_TOP = "on_top"
    """The step grows by them; the images stay."""
    INSIDE = "inside"
    """They replace image samples, of each source alike; the step keeps its size."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellConfig:
    """The axes of the study; everything else is shared by the cells of a grid."""

    target_share: float = 0.2
    """Share of the target language in stage 2's image data (of what, each line says)."""
    text_only: bool = False
    """Whether stage 2 also sees text-only target-language data."""
    backbone: str = "general"
    """Name of a language model under `backbones`."""
    stages: Stages = Stages.BOTH
    """Which training stages the cell goes through."""
    seed: int = 0
    """Seed of data order, initialisation and noise."""

    def __post_init__(self) -> None:
        """Check the share."""
        if not 0.0 <= self.target_share <= 1.0:
            raise ConfigError(f"cell.target_share must lie in 0..1, got {self.target_share}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguagesConfig:
    """The two languages of a study, by their CLDR codes."""

    base: str = "en"
    """The well-served language."""
    target: str = "eu"
    """The language the study is for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpectedSource:
    """What is known of a source before it is prepared: a dry run plans with it, nothing else."""

    num_samples: int
    """Samples; of a benchmark, questions in one language."""
    text_tokens: dict[str, float]
    """Language -> mean tokens of a sample, chat marks included, images not."""
    loss_tokens: dict[str, float] = dataclasses.field(default_factory=dict)
    """Language -> mean tokens that the loss counts."""
    has_images: bool = True
    """Whether a sample has one."""

    def __post_init__(self) -> None:
        """Check the numbers that have no type to protect them."""
        if self.num_samples < 1:
            raise ConfigError(f"expected num_samples must be at least 1, got {self.num_samples}")
        if odd := sorted(self.loss_tokens.keys() - self.text_tokens.keys()):
            raise ConfigError(f"expected loss_tokens of '{odd[0]}' without its text_tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where sources lie."""

    folder: str = "data/embedded"
    """Folder of the manifests, `{source}_{language}.manifest.json`."""
    benchmark: str = "benchmark_test"
    """Name of the benchmark manifest in that folder."""
    smoke_sources: dict[str, str] = dataclasses.field(default_factory=dict)
    """Smaller sources that the experiment `smoke` reads in the place of others."""
    expected: dict[str, ExpectedSource] = dataclasses.field(default_factory=dict)
    """By name: sources that a dry run may plan with before they are prepared."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The parts that all cells share."""

    tower: VisionTowerConfig = dataclasses.field(default_factory=VisionTowerConfig)
    """The frozen vision tower."""
    connector: ConnectorConfig = dataclasses.field(default_factory=ConnectorConfig)
    """What carries its features into the language model."""
    cache_features: bool = True
    """Compute the frozen tower's features once per image and keep them on disk. Pays where every
    image is seen several times; without it the tower runs in every step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """A language model and the chat template that belongs to it."""

    path: str
    """Local folder or hub name."""
    revision: str = ""
    """Hub revision; empty for a local folder."""
    template: str = "embedded"
    """Name of a template in core.chat.format."""

    def __post_init__(self) -> None:
        """Check the template's name."""
        if self.template not in TEMPLATES:
            raise ConfigError(unknown_name("chat template", self.template, TEMPLATES))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """From a point of the training on, other values of a line; what is left out stays."""

    from_step: int | None = None
    """First optimizer step of the phase."""
    from_fraction: float | None = None
    """The same as a fraction of the stage's steps, rounded to the nearest step."""
    samples_per_step: float | None = None
    """Samples of the line in one step from here on; 0 rests it."""
    target_share: float | None = None
    """Share of the target language from here on, whatever the cell's."""

    def __post_init__(self) -> None:
        """Check that the beginning is given once."""
        if (self.from_step is None) == (self.from_fraction is None):
            raise ConfigError(
                f"phase with from_step={self.from_step}, from_fraction={self.from_fraction}; "
                "give one of the two"
            )
        if self.from_fraction is not None and not 0.0 < self.from_fraction < 1.0:
            raise ConfigError(f"from_fraction={self.from_fraction}, expected between 0 and 1")

    def first_step(self, num_steps: int) -> int:
        """The step from which the phase holds in a stage of so many."""
        if self.from_step is not None:
            return self.from_step
        return round((self.from_fraction or 0.0) * num_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureLineConfig:
    """One line of a mixture, by the name of its source without the language."""

    source: str
    """`emoji_instruct` stands for emoji_instruct_en and emoji_instruct_eu."""
    samples_per_step: float
    """How many of the samples of one optimizer step come from here; 0 leaves the source out."""
    max_epochs: float = 200.0
    """More passes over the source than this are an error."""
    share_of: ShareOf = ShareOf.SAMPLES
    """What the share of the target language is a share of."""
    phases: list[PhaseConfig] = dataclasses.field(default_factory=list)
    """A curriculum: other values from later steps on; `docs/guides/mixtures.md`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training stage."""

    optim: OptimConfig
    """Optimizer and schedule."""
    num_steps: int = 300
    """Optimizer steps."""
    prompt_style: PromptStyle = PromptStyle.CHAT
    """How records become sequences."""
    target_share: float | None = None
    """Share of the target language; None takes the cell's."""
    visual: dict[str, MixtureLineConfig] = dataclasses.field(default_factory=dict)
    """Image sources, parallel in both languages."""
    text_only: dict[str, MixtureLineConfig] = dataclasses.field(default_factory=dict)
    """Target-language text, used by cells with `text_only`."""
    text_only_as: TextOnly = TextOnly.ON_TOP
    """Whether that text comes on top of the images or in the place of some."""
    micro_batch_tokens: int = 4096
    """Most tokens that go through the model at once."""
    row_tokens: int = 256
    """Longest packed row."""
    feature_noise_std: float = 0.0
    """Gaussian noise on cached features, in units of the features."""
    max_bad_fraction: float = 0.01
    """More unusable samples than this share of a source are an error."""
    tuning: TuningConfig = dataclasses.field(default_factory=TuningConfig)
    """What of the language model learns, in stages in which it does."""
    compute: ComputeConfig = dataclasses.field(default_factory=ComputeConfig)
    """Speed and memory; leaves the result as it is."""

    def __post_init__(self) -> None:
        """Check the numbers that have no type to protect them."""
        if self.num_steps < 1:
            raise ConfigError(f"num_steps must be at least 1, got {self.num_steps}")
        if self.target_share is not None and not 0.0 <= self.target_share <= 1.0:
            raise ConfigError(f"target_share must lie in 0..1, got {self.target_share}")
        if both := sorted({*self.visual} & {*self.text_only}):
            raise ConfigError(
                f"'{both[0]}' names a line of `visual` and one of `text_only`; rename one"
            )
        if self.text_only_as is not TextOnly.ON_TOP and not self.text_only:
            raise ConfigError(
                f"text_only_as={self.text_only_as.value}, but `text_only` has no lines; add one or "
                "leave text_only_as out"
            )


class EvaluationWeights(StrEnum):
    """Type of a model's weights while it is asked; it can change answers."""

    FLOAT32 = "float32"
    """As trained by the embedded profile."""
    BFLOAT16 = "bfloat16"
    """Half the memory: 8B on one card."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How a trained cell is asked."""

    max_new_tokens: int = 16
    """Longest answer, in tokens."""
    batch_size: int = 128
    """Prompts per batch; predictions do not depend on it."""
    blind: bool = True
    """Also ask everything with a blank image."""
    weights: EvaluationWeights = EvaluationWeights.FLOAT32
    """Type of the weights while it answers."""

    def __post_init__(self) -> None:
        """Refuse, before the training, what would fail after it."""
        for name in ("max_new_tokens", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"evaluate.{name} must be at least 1, got {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One cell, fully resolved."""

    align: TrainConfig
    """Stage 1."""
    instruct: TrainConfig
    """Stage 2."""
    backbones: dict[str, BackboneConfig]
    """Language models by name."""
    cell: CellConfig = dataclasses.field(default_factory=CellConfig)
    """The axes."""
    languages: LanguagesConfig = dataclasses.field(default_factory=LanguagesConfig)
    """Base and target language."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """Sources."""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    """Tower and connector."""
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    """Evaluation."""
    retention: RetentionConfig = dataclasses.field(default_factory=RetentionConfig)
    """Scores without images."""
    trainer: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    """Execution."""

    def __post_init__(self) -> None:
        """Checks across components."""
        if self.cell.backbone not in self.backbones:
            raise ConfigError(unknown_name("backbone", self.cell.backbone, self.backbones))
        if self.languages.base == self.languages.target:
            both = f"languages.base and languages.target are both '{self.languages.base}'"
            raise ConfigError(f"{both}; name two languages")
        stages = (("align", self.align, ALIGN_POLICY), ("instruct", self.instruct, INSTRUCT_POLICY))
        for name, stage, policy in stages:
            check_combination(
                name,
                optimizer=stage.optim.optimizer,
                tuning=stage.tuning.kind,
                strategy=stage.compute.strategy,
                trains_language_model=policy.language_model,
            )

    @property
    def backbone(self) -> BackboneConfig:
        """The language model of this cell."""
        return self.backbones[self.cell.backbone]

"""The configuration of a run: one frozen `RunConfig` per cell of a grid.

Users write it in YAML and with `--set`; it is validated before anything starts. The stages in
`pipeline.stages` derive from it the fields that determine their results.
"""

import dataclasses
from enum import StrEnum

from configuration.data_config import DataConfig, LanguagesConfig
from configuration.mixture_lines import MixtureLineConfig
from configuration.model_config import BackboneConfig, ModelConfig
from configuration.report_config import ReportConfig
from configuration.trainer import TrainerConfig
from configuration.trunks import check_trunk
from core.chat.format import PromptStyle
from core.chat.ready_made import OWN_TEMPLATE
from core.errors import ConfigError, unknown_name
from core.precision import EvaluationWeights, Precision
from evaluation.asking import AskingConfig
from evaluation.retention import RetentionConfig
from lightning_modules.compute import ComputeConfig, StrategyName
from lightning_modules.lowbit import check_combination
from lightning_modules.optim import OptimConfig
from models.connector import get_connector_class
from models.freezing import FreezePolicy
from models.language.adapters import TuningConfig

ALIGN_POLICY = FreezePolicy(connector=True, language_model=False)
"""Parts of the model that stage 1 trains."""
INSTRUCT_POLICY = FreezePolicy(connector=True, language_model=True)
"""Parts of the model that stage 2 trains, unless its architecture freezes the language model."""


def _check_amount(
    section: str, share: float | None, samples: int | None, base_samples: int | None
) -> None:
    """Check that at most one of a share and a number of samples is given, and its range.

    Raises:
        ConfigError: If both are given, or one is out of range.
    """
    if base_samples is not None and samples is None:
        raise ConfigError(
            f"{section}.base_samples={base_samples} without target_samples; set both, or neither"
        )
    if share is not None and samples is not None:
        raise ConfigError(
            f"{section}.target_share={share:g} and target_samples={samples}; set exactly one of "
            "them and the other to null"
        )
    if share is not None and not 0.0 <= share <= 1.0:
        raise ConfigError(f"{section}.target_share must be between 0 and 1, got {share}")
    for name, number in (("target_samples", samples), ("base_samples", base_samples)):
        if number is not None and number < 0:
            raise ConfigError(f"{section}.{name} must be at least 0, got {number}")
    if samples == base_samples == 0:
        raise ConfigError(
            f"{section}.target_samples and base_samples are both 0; use at least one image"
        )


class Stages(StrEnum):
    """Training stages of a cell."""

    BOTH = "both"
    ALIGN_ONLY = "align_only"
    INSTRUCT_ONLY = "instruct_only"


class TextOnly(StrEnum):
    """Placement of text-only samples in an optimizer step."""

    ON_TOP = "on_top"
    """They are added to the image samples; the step grows."""
    INSIDE = "inside"
    """They replace image samples of all sources in proportion; the step keeps its size."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellConfig:
    """The axes of the study. An experiment may vary any other field as well."""

    target_share: float | None = 0.2
    """Share of the target language in the image data of stage 2; `share_of` of a mixture line says
    whether it is a share of samples or of loss tokens. Null if `target_samples` is set."""
    target_samples: int | None = None
    """Number of different images of stage 2 that have the target language, instead of a share."""
    base_samples: int | None = None
    """Number of different images of stage 2 that have the base language, in addition to
    `target_samples`; others are not used. Null for all others."""
    text_only: bool = False
    """Whether stage 2 also uses text-only data in the target language."""
    backbone: str = "general"
    """Name of a language model under `backbones`."""
    stages: Stages = Stages.BOTH
    """Training stages of the cell."""
    seed: int = 0
    """Seed of data order, initialisation and noise."""

    def __post_init__(self) -> None:
        """Validate the share or the amount."""
        _check_amount("cell", self.target_share, self.target_samples, self.base_samples)
        if self.target_share is None and self.target_samples is None:
            raise ConfigError(
                "cell.target_share and cell.target_samples are both null; set exactly one of them"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Configuration of one training stage."""

    optim: OptimConfig
    """Optimizer and schedule."""
    num_steps: int = 300
    """Optimizer steps."""
    prompt_style: PromptStyle = PromptStyle.CHAT
    """Conversion of records to token sequences."""
    target_share: float | None = None
    """Share of the target language; None uses the share or the amount of the cell."""
    target_samples: int | None = None
    """Number of different images that have the target language, instead of a share."""
    base_samples: int | None = None
    """Number of different images that have the base language, besides the target ones."""
    visual: dict[str, MixtureLineConfig] = dataclasses.field(default_factory=dict)
    """Image sources, parallel in both languages."""
    text_only: dict[str, MixtureLineConfig] = dataclasses.field(default_factory=dict)
    """Target-language text, used by cells with `text_only`."""
    text_only_as: TextOnly = TextOnly.ON_TOP
    """Whether text-only samples are added to the image samples or replace some of them."""
    micro_batch_tokens: int = 4096
    """Maximum number of tokens per forward pass."""
    row_tokens: int = 256
    """Maximum number of tokens of a packed row."""
    feature_noise_std: float = 0.0
    """Standard deviation of Gaussian noise added to cached features."""
    max_bad_fraction: float = 0.01
    """Maximum share of unusable samples of a source; more are an error."""
    policy: FreezePolicy | None = None
    """Parts of the model that the stage trains. None is the connector in stage 1; in stage 2 also
    the language model, except with cross_attention, whose language model stays frozen."""
    tuning: TuningConfig = dataclasses.field(default_factory=TuningConfig)
    """Tuning method of the language model, in stages that train it."""
    branch_points: list[int] = dataclasses.field(default_factory=list)
    """Steps at which a training at a constant rate, the trunk, is saved, so that stages of several
    lengths continue from it (docs/guides/studies.md). Empty trains the whole stage."""
    compute: ComputeConfig = dataclasses.field(default_factory=ComputeConfig)
    """Settings for speed and memory that do not change the result."""

    def __post_init__(self) -> None:
        """Validate numeric ranges."""
        if self.num_steps < 1:
            raise ConfigError(f"num_steps must be at least 1, got {self.num_steps}")
        _check_amount(
            "align or instruct", self.target_share, self.target_samples, self.base_samples
        )
        if both := sorted({*self.visual} & {*self.text_only}):
            raise ConfigError(
                f"'{both[0]}' names a line in both `visual` and `text_only`; rename one of them"
            )
        if self.branch_points:
            lines = (*self.visual.values(), *self.text_only.values())
            check_trunk(self.branch_points, self.optim, self.num_steps, lines)
        if self.text_only_as is not TextOnly.ON_TOP and not self.text_only:
            raise ConfigError(
                f"text_only_as={self.text_only_as.value}, but `text_only` has no lines; add one or "
                "remove text_only_as"
            )

    @property
    def has_amount(self) -> bool:
        """Return whether the stage has its own share or amount instead of that of the cell."""
        return self.target_share is not None or self.target_samples is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(AskingConfig):
    """Configuration of the evaluation: how questions are asked, and how replies are computed."""

    batch_size: int = 128
    """Prompts per batch; predictions do not depend on it."""
    blind: bool = True
    """Also ask every question with a blank image."""
    guided_choice: bool = False
    """Allow only the options as replies to multiple-choice questions, so that no reply names
    anything else. A reply is then the option that greedy decoding reaches."""
    likelihood: bool = False
    """Also decide multiple-choice and yes/no questions by the log-likelihood of their options."""
    wordings: list[str] = dataclasses.field(default_factory=list)
    """Further styles of prompts with which questions with a short answer, a choice, or yes or no
    are asked again. The replies to `prompt_style` decide all other scores."""
    weights: EvaluationWeights = EvaluationWeights.FLOAT32
    """Type of the weights."""

    def __post_init__(self) -> None:
        """Reject, before training, values that would fail after it."""
        super().__post_init__()
        if self.batch_size < 1:
            raise ConfigError(f"evaluate.batch_size must be at least 1, got {self.batch_size}")
        styles = [self.prompt_style, *self.wordings]
        if "" in styles or len(set(styles)) < len(styles):
            raise ConfigError(
                f"evaluate.wordings={self.wordings} repeats a style or has an empty name; list "
                f"styles other than evaluate.prompt_style={self.prompt_style}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Configuration of one cell."""

    align: TrainConfig
    """Stage 1."""
    instruct: TrainConfig
    """Stage 2."""
    backbones: dict[str, BackboneConfig]
    """Language models, or ready-made vision-language models, by name."""
    cell: CellConfig = dataclasses.field(default_factory=CellConfig)
    """Axes of the study."""
    languages: LanguagesConfig = dataclasses.field(default_factory=LanguagesConfig)
    """Base and target language."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """Data."""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    """Family, tower and connector."""
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    """Evaluation on the benchmarks."""
    retention: RetentionConfig = dataclasses.field(default_factory=RetentionConfig)
    """Evaluation of the language model without images."""
    report: ReportConfig = dataclasses.field(default_factory=ReportConfig)
    """Report of the grid."""
    trainer: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    """Execution settings."""

    def __post_init__(self) -> None:
        """Validate across sections."""
        if self.cell.backbone not in self.backbones:
            raise ConfigError(unknown_name("backbone", self.cell.backbone, self.backbones))
        self._check_replaced_sources()
        self._check_family()
        stages = (
            ("align", self.align, self.align_policy),
            ("instruct", self.instruct, self.instruct_policy),
        )
        can_compile = get_connector_class(self.model.connector.kind).can_compile
        for name, stage, policy in stages:
            if stage.compute.compile_blocks and not can_compile:
                raise ConfigError(
                    f"{name}.compute.compile_blocks=true is not supported with "
                    f"model.connector.kind={self.model.connector.kind}, which works between the "
                    "blocks; set compile_blocks=false"
                )
            check_combination(
                name,
                optimizer=stage.optim.optimizer,
                tuning=stage.tuning.kind,
                strategy=stage.compute.strategy,
                precision=self.trainer.precision,
                trains_language_model=policy.language_model,
            )

    @property
    def align_policy(self) -> FreezePolicy:
        """Parts of the model that stage 1 trains."""
        return self.align.policy or ALIGN_POLICY

    @property
    def instruct_policy(self) -> FreezePolicy:
        """Parts of the model that stage 2 trains."""
        kind = self.model.connector.kind
        learns = self.model.is_ready_made or get_connector_class(kind).trains_language_model
        return self.instruct.policy or (INSTRUCT_POLICY if learns else ALIGN_POLICY)

    @property
    def backbone(self) -> BackboneConfig:
        """Language model, or ready-made model, of this cell."""
        return self.backbones[self.cell.backbone]

    @property
    def suitable_backbones(self) -> tuple[str, ...]:
        """Names of the backbones of the configured family: language models, or ready-made ones."""
        is_own = self.model.is_ready_made
        models = self.backbones.items()
        return tuple(name for name, one in models if (one.template == OWN_TEMPLATE) is is_own)

    def _check_replaced_sources(self) -> None:
        """Check that every name in `data.sources` is that of a mixture line, or of its source.

        Raises:
            ConfigError: If one is neither, so that it would have no effect.
        """
        stages = (self.align, self.instruct)
        sections = [lines for stage in stages for lines in (stage.visual, stage.text_only)]
        known = {name for lines in sections for name in lines}
        known |= {line.source for lines in sections for line in lines.values()}
        for name in self.data.sources:
            if name not in known:
                what = "mixture line or source in data.sources"
                raise ConfigError(unknown_name(what, name, sorted(known)))

    def _check_family(self) -> None:
        """Check that the other settings suit the family of the model.

        Raises:
            ConfigError: If one does not; the message names the value that does.
        """
        where = f"backbones.{self.cell.backbone}.template"
        if not self.model.is_ready_made:
            if self.backbone.template == OWN_TEMPLATE:
                raise ConfigError(
                    f"{where}={OWN_TEMPLATE} is the template of a ready-made model; set "
                    "model.family=hf, or name a template"
                )
            for stage, policy in (("align", self.align_policy), ("instruct", self.instruct_policy)):
                if policy.tower:
                    raise ConfigError(
                        f"{stage}.policy.tower=true, but the tower of a composed model computes "
                        "without gradients; set it to false"
                    )
            return
        strategy, precision = self.instruct.compute.strategy, self.trainer.precision
        required = {
            where: (self.backbone.template, OWN_TEMPLATE),
            "cell.stages": (self.cell.stages, Stages.INSTRUCT_ONLY),
            "instruct.prompt_style": (self.instruct.prompt_style, PromptStyle.CHAT),
            "instruct.feature_noise_std": (self.instruct.feature_noise_std, 0.0),
            "instruct.compute.strategy": (
                strategy,
                StrategyName.DDP if strategy.is_sharded else strategy,
            ),
            "trainer.precision": (
                precision,
                Precision.BF16_MIXED if precision is Precision.FLOAT8_MIXED else precision,
            ),
        }
        for name, (found, needed) in required.items():
            if found != needed:
                raise ConfigError(
                    f"model.family=hf: {name}={found} is not supported for ready-made models; set "
                    f"it to {needed}"
                )

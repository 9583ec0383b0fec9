"""From a cell's `RunConfig` to one spec per stage: exactly what determines that stage's result.

A spec holds no cell name, no thread count and no path of a run: two cells whose specs are equal
share the stage.
"""

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from typing import TypeAlias

from configuration.mixture import manifest_path, stage_components, used_lines
from configuration.run_config import (
    ComponentConfig,
    EvaluateConfig,
    RunConfig,
    Stages,
    TrainConfig,
)
from core.chat.format import PromptStyle
from datamodules.mixture.config import MixtureConfig
from datamodules.mixture_datamodule import StreamConfig
from evaluation.retention import TEXT_PREFIX, RetentionConfig
from lightning_modules.compute import ComputeConfig
from lightning_modules.contrastive.tower import TowerRecipe
from lightning_modules.optim import OptimConfig
from models.connector import ConnectorConfig
from models.language.adapters import TuningConfig
from models.language.language_model import LanguageModelConfig
from models.towers.vision_tower import VisionTowerConfig


class StageKind(StrEnum):
    """The kinds of stage runs; also the folders of the store."""

    FEATURES = "features"
    ALIGN = "align"
    INSTRUCT = "instruct"
    EVALUATE = "evaluate"
    BACKBONE = "backbone"
    """What the language model scores without images before any training."""
    RETENTION = "retention"
    """The same after the last stage."""
    TOKENIZER = "tokenizer"
    PRETRAIN = "pretrain"
    TOWER = "tower"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeaturesSpec:
    """Features of the frozen tower for every image that a grid touches."""

    tower: VisionTowerConfig
    manifests: tuple[str, ...]
    """Manifest paths, sorted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VlmSpec:
    """Which model a training or evaluation stage builds."""

    tower: VisionTowerConfig
    connector: ConnectorConfig
    language_model: LanguageModelConfig
    template: str
    """Chat template by name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """One training stage."""

    model: VlmSpec
    stream: StreamConfig
    optim: OptimConfig
    num_steps: int
    seed: int
    """Seed of the connector's initialisation; the data's seed is in the mixture."""
    precision: str = "32-true"
    """Lightning precision: it changes the result."""
    tuning: TuningConfig = dataclasses.field(default_factory=TuningConfig)
    """What of the language model learns."""
    compute: ComputeConfig = dataclasses.field(default_factory=ComputeConfig)
    """Execution only: no part of the address."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSpec:
    """One evaluation of one trained model."""

    model: VlmSpec
    manifest: str
    """The benchmark's manifest."""
    languages: tuple[str, ...]
    settings: EvaluateConfig
    tuning: TuningConfig = dataclasses.field(default_factory=TuningConfig)
    """How the last stage tuned the language model, which says what its weights file holds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetentionSpec:
    """The language model alone on tasks without images (`evaluation.retention`)."""

    model: VlmSpec
    texts: dict[str, str]
    """Task over a source's running text -> its manifest."""
    settings: RetentionConfig
    tuning: TuningConfig = dataclasses.field(default_factory=TuningConfig)
    """As in `EvaluateSpec`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """A byte-level BPE trained on text sources."""

    manifests: tuple[str, ...]
    """Manifest paths, in order."""
    vocab_size: int
    """Entries, special tokens included."""
    template: str
    """Chat template whose marks become special tokens."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """Dimensions of a language model that starts from random weights."""

    hidden_size: int = 192
    num_layers: int = 4
    num_heads: int = 3
    intermediate_size: int = 512
    max_positions: int = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainSpec:
    """A language model trained on text: from its shape, or on from another one ("init")."""

    shape: LlamaShape
    template: str
    stream: StreamConfig
    optim: OptimConfig
    num_steps: int
    seed: int
    precision: str = "32-true"
    """Lightning precision: it changes the result."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerSpec:
    """The contrastively trained vision tower of the embedded profile."""

    manifest: str
    """Caption source in the base language: images and names."""
    recipe: TowerRecipe
    seed: int


Spec: TypeAlias = (
    FeaturesSpec
    | TrainSpec
    | EvaluateSpec
    | RetentionSpec
    | TokenizerSpec
    | PretrainSpec
    | TowerSpec
)


def features_spec(config: RunConfig) -> FeaturesSpec:
    """Every image source of both stages and the benchmark."""
    stages = (config.align, config.instruct)
    lines = [line for stage in stages for line in used_lines(stage.visual).values()]
    base = config.languages.base
    manifests = {manifest_path(config, f"{line.source}_{base}") for line in lines}
    manifests.add(manifest_path(config, config.data.benchmark))
    return FeaturesSpec(tower=config.model.tower, manifests=tuple(sorted(manifests)))


def align_spec(config: RunConfig) -> TrainSpec:
    """Stage 1; its share is fixed, so that all cells of a backbone share it."""
    return _train_spec(config, config.align, text_only={})


def instruct_spec(config: RunConfig) -> TrainSpec:
    """Stage 2, where the cell's share and text-only data act."""
    text_only = config.instruct.text_only if config.cell.text_only else {}
    return _train_spec(config, config.instruct, text_only=text_only)


def evaluate_spec(config: RunConfig) -> EvaluateSpec:
    """The benchmark in both languages."""
    is_aligned_only = config.cell.stages is Stages.ALIGN_ONLY
    last_stage = config.align if is_aligned_only else config.instruct
    return EvaluateSpec(
        model=_vlm_spec(config),
        manifest=manifest_path(config, config.data.benchmark),
        languages=(config.languages.base, config.languages.target),
        settings=config.evaluate,
        tuning=last_stage.tuning,
    )


def retention_spec(config: RunConfig, *, is_trained: bool) -> RetentionSpec:
    """The language model after stage 2, or before any training."""
    texts = {
        task: manifest_path(config, task.removeprefix(TEXT_PREFIX))
        for task in config.retention.tasks
        if task.startswith(TEXT_PREFIX)
    }
    return RetentionSpec(
        model=_vlm_spec(config),
        texts=texts,
        settings=config.retention,
        tuning=config.instruct.tuning if is_trained else TuningConfig(),
    )


def spec_manifests(spec: Spec) -> tuple[str, ...]:
    """Every manifest that a spec reads."""
    if isinstance(spec, FeaturesSpec | TokenizerSpec):
        return spec.manifests
    if isinstance(spec, EvaluateSpec | TowerSpec):
        return (spec.manifest,)
    if isinstance(spec, RetentionSpec):
        return tuple(sorted(spec.texts.values()))
    components = spec.stream.mixture.components.values()
    return tuple(sorted({path for c in components for path in (c.base, c.target) if path}))


def spec_weights(spec: Spec) -> tuple[str, ...]:
    """Every model folder that a spec reads."""
    if isinstance(spec, FeaturesSpec):
        return (spec.tower.path,)
    if isinstance(spec, TrainSpec | EvaluateSpec | RetentionSpec):
        return (spec.model.tower.path, spec.model.language_model.path)
    return ()


def _vlm_spec(config: RunConfig) -> VlmSpec:
    backbone = config.backbone
    return VlmSpec(
        tower=config.model.tower,
        connector=config.model.connector,
        language_model=LanguageModelConfig(path=backbone.path, revision=backbone.revision),
        template=backbone.template,
    )


def _train_spec(
    config: RunConfig, stage: TrainConfig, *, text_only: Mapping[str, ComponentConfig]
) -> TrainSpec:
    components = stage_components(config, stage, text_only=text_only)
    stream = StreamConfig(
        mixture=MixtureConfig(components=components, seed=config.cell.seed),
        prompt_style=PromptStyle(stage.prompt_style),
        micro_batch_tokens=stage.micro_batch_tokens,
        row_tokens=stage.row_tokens,
        feature_noise_std=stage.feature_noise_std,
        max_bad_fraction=stage.max_bad_fraction,
        num_workers=config.trainer.num_workers,
    )
    return TrainSpec(
        model=_vlm_spec(config),
        stream=stream,
        optim=stage.optim,
        num_steps=stage.num_steps,
        seed=config.cell.seed,
        precision=config.trainer.precision,
        tuning=stage.tuning,
        compute=stage.compute,
    )

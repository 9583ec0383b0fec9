"""Specs -> objects: the one place that constructs models, data and trainers."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from callbacks.bad_sample_budget import BadSampleBudget
from callbacks.checkpoint_interval import Cadence, EverySteps, MeasuredSteps
from callbacks.checkpoints import SMALL_BYTES, AtomicCheckpoint
from callbacks.metrics_log import JsonlLogger
from callbacks.monitor import StreamMonitor
from callbacks.preemption import Preemption
from callbacks.watchdog import Watchdog
from configuration.trainer import TrainerConfig
from core.chat.format import TEMPLATES, ChatFormat, load_tokenizer
from core.process.stop import StopFlag
from datamodules.batches.feature_cache import FeatureCache
from lightning_modules.compute import ComputeConfig, StrategyName
from lightning_modules.strategy import build_strategy
from models.connector import build_connector
from models.language.attention import AttentionKind, use_packed_attention
from models.language.blocks import checkpoint_activations, compile_blocks
from models.language.language_model import (
    empty_language_model,
    fit_vocabulary,
    load_language_model,
    weights_folder,
)
from models.sharding import load_pretrained
from models.towers.vision_tower import VisionTower, load_vision_tower
from models.vlm import VisionLanguageModel
from pipeline.stages.specs import PretrainSpec, TrainSpec, VlmSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class VlmParts:
    """A model with the two things that must agree with it."""

    model: VisionLanguageModel
    chat: ChatFormat
    features: FeatureCache | None
    """The cache that stands in for the tower; then the model holds no tower."""

    def images(self, image: bytes) -> torch.Tensor:
        """What the model takes for an encoded image: features (P, E) or pixels (C, H, W)."""
        if self.features is not None:
            return torch.from_numpy(np.array(self.features.get(image)))
        if self.model.tower is None:
            raise ValueError("neither features nor a tower")
        return self.model.tower.transform(image)


def build_vlm(
    spec: VlmSpec,
    *,
    cache: Path | None,
    seed: int,
    is_empty: bool = False,
    dtype: torch.dtype = torch.float32,
) -> VlmParts:
    """Build the model of a spec with a freshly initialised connector.

    Args:
        spec: which parts.
        cache: folder of a finished feature cache; None loads the tower itself.
        seed: seed of the connector's weights.
        is_empty: leave the language model without weights, for `fill_language_model`.
        dtype: dtype of the weights of the language model (`language_model.loading_dtype`).
    """
    features = FeatureCache.open(cache) if cache is not None else None
    tower = load_vision_tower(spec.tower) if features is None else None
    width, num_tokens = _shape(tower, features)
    load = empty_language_model if is_empty else load_language_model
    language_model = load(spec.language_model, dtype=dtype)
    connector = build_connector(
        spec.connector,
        vision_width=width,
        model_width=language_model.config.hidden_size,
        seed=seed,
    )
    tokenizer = load_tokenizer(spec.language_model.path, revision=spec.language_model.revision)
    chat = ChatFormat(tokenizer, TEMPLATES[spec.template], num_image_tokens=num_tokens)
    fit_vocabulary(language_model, len(tokenizer))
    model = VisionLanguageModel(
        tower, connector, language_model, image_token_id=chat.image_token_id
    )
    return VlmParts(model=model, chat=chat, features=features)


def fill_language_model(spec: VlmSpec, model: VisionLanguageModel) -> None:
    """Load the weights that `build_vlm` left out; of sharded ones, each rank its own part."""
    load_pretrained(model.language_model, weights_folder(spec.language_model))


def apply_compute(model: VisionLanguageModel, config: ComputeConfig, accelerator: str) -> None:
    """Set the levers of a training stage; none of them changes what is computed."""
    kind = config.attention
    if kind is AttentionKind.AUTO and accelerator == "cpu":
        kind = AttentionKind.MASK
    use_packed_attention(model.language_model, kind)
    model.attention = kind
    model.loss_chunk = config.loss_chunk
    checkpoint_activations(model.language_model, every=config.checkpoint_blocks)
    if config.compile_blocks:
        compile_blocks(model.language_model)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervision:
    """How a training and those who watch over it reach each other."""

    flag: StopFlag
    """Raised to stop it."""
    on_hung: Callable[[str], None]
    """Told why, before a training that no longer moves is ended."""


def build_trainer(
    folder: Path,
    config: TrainerConfig,
    *,
    spec: TrainSpec | PretrainSpec,
    supervision: Supervision,
    strategy: StrategyName,
) -> lightning.Trainer:
    """A step-based Trainer that saves, logs and stops the way this house does."""
    checkpoint = AtomicCheckpoint(
        folder / "checkpoints",
        cadence=_cadence(config),
        keep=config.keep_checkpoints,
        keep_every_n_steps=config.keep_every_n_steps,
        background_above_bytes=SMALL_BYTES if config.save_in_background else math.inf,
    )
    return lightning.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=build_strategy(
            config.accelerator,
            config.devices,
            num_nodes=config.num_nodes,
            name=strategy,
            timeout_s=config.hung_after_s,
        ),
        plugins=_cluster(),
        precision=spec.precision,  # type: ignore[arg-type]  # validated by Lightning itself
        max_steps=spec.num_steps,
        max_epochs=-1,
        logger=JsonlLogger(folder, total_steps=spec.num_steps),
        log_every_n_steps=config.log_every_n_steps,
        callbacks=[
            BadSampleBudget(),
            StreamMonitor(every_n_steps=config.log_every_n_steps),
            checkpoint,
            Preemption(supervision.flag, checkpoint),
            Watchdog(config.hung_after_s, tell=supervision.on_hung),
        ],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )


def _cadence(config: TrainerConfig) -> Cadence:
    if config.checkpoint_every_n_steps:
        return EverySteps(config.checkpoint_every_n_steps)
    return MeasuredSteps(3600 * config.hours_between_failures)


def _cluster() -> ClusterEnvironment:
    """Torchrun's ranks, or one process on each machine whose further ranks Lightning starts.

    The latter in SLURM too, without Lightning's requeueing, which saves inside a signal handler.
    """
    return TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment()


def _shape(tower: VisionTower | None, features: FeatureCache | None) -> tuple[int, int]:
    """Width and number of visual tokens of an image."""
    if tower is not None:
        return tower.width, tower.num_image_tokens
    if features is None:
        raise ValueError("either a tower or its cached features are needed")
    return features.width, features.num_image_tokens

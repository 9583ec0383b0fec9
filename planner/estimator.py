"""Estimates of stage runs before they start: steps, tokens, parameters, memory, time."""

import dataclasses
import math
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Protocol

import torch

from configuration.vlm_spec import VlmSpec
from core.precision import Precision
from evaluation.retention import RetentionConfig
from models.accounting.footprint import Footprint, footprint, tower_flops
from models.accounting.kept import BlockMemory, block_memory
from models.accounting.ready_made_shapes import empty_shaped_ready_made, ready_made_footprint
from models.accounting.shapes import EmptyVlm, empty_vlm
from models.freezing import FreezePolicy
from models.language.adapters import TuningConfig
from models.ready_made.model import ReadyMadeVlm
from models.towers.vision_tower import VisionTowerConfig, empty_vision_tower
from planner import costs
from planner.costs import Cost
from planner.encoding import image_tokens_of
from planner.training_fields import TrainingFields
from planner.training_memory import TrainingSetup, Weights, weights_of
from planner.workload import EvaluationFields, ExpectedSources, Load, Workloads

_STATES_PER_TRAINED = 4
"""Copies of a trained weight: the weight, its gradient, and the two moments of AdamW."""
_PROCESS_MB = 600.0
"""Resident memory of a worker before it loads a model (measured)."""
_ACHIEVED_ON_CPU = 0.5
"""Share of a matrix product's speed that the training step of a small model reaches (measured)."""
_IMAGES_PER_S = 90.0
"""Images per second that a core encodes with the embedded tower (measured)."""
_PROBE_SIZE, _PROBES = 1024, 5
_TOWER_WIDTH = 1024
"""Assumed width of vision towers, whose time hardly counts."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StageEstimate:
    """Estimate of one stage run; the defaults mean that nothing is known."""

    load: Load = dataclasses.field(default_factory=Load)
    weights: Weights = dataclasses.field(default_factory=lambda: Weights(trained=0, frozen=0))
    cost: Cost | None = None
    """Cost on the requested number of GPUs."""
    width: int = _TOWER_WIDTH
    """Width of the model, on which the speed of a GPU depends."""
    cpu_memory_mb: float = _PROCESS_MB
    """Main memory of the stage run on a CPU."""
    cpu_seconds: float | None = None
    """Time on one core of this machine."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSize:
    """Amounts of a training stage that do not depend on a device."""

    parameters: int
    """All weights of the model, adapters included."""
    trained: int
    """Weights that the stage trains."""
    image_tokens: int
    """Positions of an image in the text."""
    tokens: float
    """Tokens of the whole training, image tokens included."""
    flops: float
    """Executed floating point operations."""


class EvaluationStageFields(EvaluationFields, Protocol):
    """Fields of an evaluation stage that its cost depends on."""

    @property
    def tuning(self) -> TuningConfig:
        """Tuning method of the last training stage."""

    @property
    def policy(self) -> FreezePolicy:
        """Parts that the last training stage trained."""


class RetentionFields(Protocol):
    """Fields of a retention stage that its cost depends on."""

    @property
    def model(self) -> VlmSpec:
        """Parts of the model."""

    @property
    def texts(self) -> Mapping[str, str]:
        """Task over the running text of a source -> its manifest."""

    @property
    def settings(self) -> RetentionConfig:
        """Tasks and batch size."""

    @property
    def tuning(self) -> TuningConfig:
        """Tuning method of the last training stage."""


class Estimator:
    """Estimates stage runs from their fields, their data, and the shapes of their models."""

    def __init__(self, expected: ExpectedSources, cache_folder: Path) -> None:
        self._workloads = Workloads(expected, cache_folder)

    def features(self, tower: VisionTowerConfig, manifests: tuple[str, ...]) -> StageEstimate:
        """Estimate one pass of a tower over every image of some sources."""
        count = self._workloads.num_samples(manifests)
        cost = costs.features_cost(_image_flops(tower), round(count))
        load = Load(num_samples=count, num_images=count)
        return StageEstimate(load=load, cost=cost, cpu_seconds=count / _IMAGES_PER_S)

    def training(self, stage: TrainingFields, *, has_tower: bool, count: int) -> StageEstimate:
        """Estimate a training stage on `count` GPUs."""
        load = self._workloads.of_training(stage)
        trains = stage.policy.language_model
        block = _block_memory(
            stage.model,
            stage.tuning,
            stage.policy,
            stage.precision,
            is_sharded=trains and stage.compute.strategy.is_sharded,
            is_compiled=stage.compute.compile_blocks,
            num_tokens=stage.stream.micro_batch_tokens,
        )
        setup = TrainingSetup(has_tower=has_tower, block=block, count=count)
        model = count_model(stage.model, stage.tuning)
        weights = weights_of(model, stage.tuning.kind, stage.policy)
        states = _STATES_PER_TRAINED * weights.trained if trains else weights.trained
        cost = costs.training_cost(stage, model, load, setup)
        return _estimate(model, load, weights, cost, num_states=states)

    def training_size(self, stage: TrainingFields, *, has_tower: bool) -> TrainingSize:
        """Return the amounts of a training stage that do not depend on a device."""
        load = self._workloads.of_training(stage)
        model = count_model(stage.model, stage.tuning)
        weights = weights_of(model, stage.tuning.kind, stage.policy)
        return TrainingSize(
            parameters=weights.trained + weights.frozen,
            trained=weights.trained,
            image_tokens=model.num_image_tokens,
            tokens=load.num_tokens,
            flops=costs.training_flops(stage, model, load, has_tower=has_tower),
        )

    def evaluation(self, stage: EvaluationStageFields, *, has_tower: bool) -> StageEstimate:
        """Estimate the generation of all replies on one GPU."""
        load = self._workloads.of_evaluation(stage)
        model = count_model(stage.model, stage.tuning)
        cost = costs.evaluation_cost(stage.settings, model, load, has_tower=has_tower)
        return _estimate(model, load, _all_frozen(model, stage.tuning), cost)

    def retention(self, stage: RetentionFields) -> StageEstimate:
        """Estimate the scoring of all tasks without images on one GPU."""
        model = count_model(stage.model, stage.tuning)
        documents = {
            task: self._workloads.num_samples((path,)) for task, path in stage.texts.items()
        }
        cost = costs.retention_cost(stage.settings, model, documents)
        return _estimate(model, Load(), _all_frozen(model, stage.tuning), cost)


def _estimate(
    model: Footprint, load: Load, weights: Weights, cost: Cost, *, num_states: int = 0
) -> StageEstimate:
    total = weights.trained + weights.frozen
    return StageEstimate(
        load=load,
        weights=weights,
        cost=cost,
        width=model.hidden_size,
        cpu_memory_mb=_PROCESS_MB + 4 * (num_states + total) / 2**20,
        cpu_seconds=cost.flops / _cpu_flops_per_s(),
    )


def _all_frozen(model: Footprint, tuning: TuningConfig) -> Weights:
    weights = weights_of(model, tuning.kind, FreezePolicy(connector=True))
    return Weights(trained=0, frozen=weights.trained + weights.frozen)


@cache
def count_model(model: VlmSpec, tuning: TuningConfig) -> Footprint:
    """Count the weights and operations of a model under a tuning method."""
    empty = _empty_model(model)
    if isinstance(empty, EmptyVlm):
        return footprint(empty, tuning)
    return ready_made_footprint(empty, tuning, num_image_tokens=image_tokens_of(model))


@cache
def _empty_model(model: VlmSpec) -> EmptyVlm | ReadyMadeVlm:
    if model.ready_made is not None:
        return empty_shaped_ready_made(model.ready_made)
    return empty_vlm(model.tower, model.connector, model.language_model)


@cache
def _block_memory(  # noqa: PLR0913 - the settings that it depends on
    model: VlmSpec,
    tuning: TuningConfig,
    policy: FreezePolicy,
    precision: Precision,
    *,
    is_sharded: bool,
    is_compiled: bool,
    num_tokens: int,
) -> BlockMemory:
    empty = _empty_model(model)
    return block_memory(
        empty.model if isinstance(empty, EmptyVlm) else empty,
        tuning=tuning,
        policy=policy,
        precision=precision,
        is_sharded=is_sharded,
        is_compiled=is_compiled,
        num_tokens=num_tokens,
    )


@cache
def _image_flops(tower: VisionTowerConfig) -> float:
    return tower_flops(empty_vision_tower(tower))


@cache
def _cpu_flops_per_s() -> float:
    """Measure a matrix product on one core, times the share that training reaches.

    The fastest of several is taken, in CPU time: other programs must not change the plan.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    matrix = torch.ones(_PROBE_SIZE, _PROBE_SIZE)
    seconds = math.inf
    for _ in range(_PROBES):
        begin = time.thread_time()
        matrix @ matrix
        seconds = min(seconds, time.thread_time() - begin)
    torch.set_num_threads(threads)
    return _ACHIEVED_ON_CPU * 2 * _PROBE_SIZE**3 / seconds

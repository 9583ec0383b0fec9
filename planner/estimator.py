"""What a stage run will cost, before it runs: steps, tokens, epochs, parameters, memory, time."""

import dataclasses
import time
from functools import cache as memoize
from pathlib import Path

import torch

from models.accounting.footprint import Footprint, footprint, saved_bytes_per_token, tower_flops
from models.accounting.shapes import EmptyVlm, empty_vlm
from models.language.adapters import TuningConfig
from models.towers.vision_tower import VisionTowerConfig, empty_vision_tower
from pipeline.stages.graph import StageNode
from pipeline.stages.specs import (
    EvaluateSpec,
    FeaturesSpec,
    RetentionSpec,
    StageKind,
    TrainSpec,
    VlmSpec,
)
from planner import costs
from planner.costs import Cost
from planner.workload import Expected, Load, Loads

_STATES_PER_TRAINED = 4
"""Copies of a trained number: weight, gradient, two moments of AdamW."""
_PROCESS_MB = 600.0
"""What a worker holds before it loads a model: the libraries (measured, resident)."""
_ACHIEVED = 0.5
"""Share of a plain matrix product's speed that a small model's step reaches (measured)."""
_IMAGES_PER_S = 50.0
"""Images a core encodes with the embedded tower (measured)."""
_PROBE = 1024
_TOWER_WIDTH = 1024
"""Assumed of towers, whose time hardly counts."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Numbers of a dry run on the cores of this machine; zero where they have no meaning."""

    load: Load = dataclasses.field(default_factory=Load)
    trained: int = 0
    frozen: int = 0
    memory_mb: float = _PROCESS_MB
    seconds: float | None = None
    """Of one core; None where nobody knows."""


class Estimator:
    """Estimates of stage runs from their specs, their data and the shapes of their models."""

    def __init__(self, expected: Expected, cache: Path) -> None:
        self._loads = Loads(expected, cache)

    def load(self, node: StageNode) -> Load:
        """What a stage run computes on; an empty load where that has no meaning."""
        spec = node.spec
        if isinstance(spec, TrainSpec):
            return self._loads.of_training(spec)
        if isinstance(spec, EvaluateSpec):
            return self._loads.of_evaluation(spec)
        if isinstance(spec, FeaturesSpec):
            count = self._loads.num_images(spec.manifests)
            return Load(num_samples=count, num_images=count)
        return Load()

    def cost(self, node: StageNode, *, count: int, spec: TrainSpec | None = None) -> Cost | None:
        """On `count` GPUs; None for stages that nobody runs there.

        Args:
            node: the stage run.
            count: GPUs that share it.
            spec: another one in the place of its own, for a what-if.
        """
        own = node.spec
        load = self.load(node)
        if isinstance(own, FeaturesSpec):
            return costs.features_cost(_image_flops(own.tower), round(load.num_images))
        has_tower = "features" not in node.inputs
        if isinstance(own, EvaluateSpec):
            model = model_of(own.model, own.tuning)
            return costs.evaluation_cost(own, model, load, has_tower=has_tower)
        if isinstance(own, RetentionSpec):
            return costs.retention_cost(own, model_of(own.model, own.tuning))
        if not isinstance(own, TrainSpec):
            return None
        used, learns = spec or own, node.kind is StageKind.INSTRUCT
        dtype = costs.activation_dtype(used.precision)
        how = costs.Circumstances(
            learns=learns,
            has_tower=has_tower,
            saved_per_token=_saved(used.model, used.tuning, learns=learns, dtype=dtype),
            count=count,
        )
        return costs.training_cost(used, model_of(used.model, used.tuning), load, how)

    def on_this_machine(self, node: StageNode) -> Estimate:
        """On one core of this machine."""
        load, spec = self.load(node), node.spec
        if isinstance(spec, FeaturesSpec):
            return Estimate(load=load, seconds=load.num_images / _IMAGES_PER_S)
        if not isinstance(spec, TrainSpec | EvaluateSpec | RetentionSpec):
            return Estimate()
        learns = node.kind is StageKind.INSTRUCT
        weights = trained_weights(node)
        cost = self.cost(node, count=1)
        trained = weights.trained if isinstance(spec, TrainSpec) else 0
        total = weights.trained + weights.frozen
        states = _STATES_PER_TRAINED * trained if learns else trained
        return Estimate(
            load=load,
            trained=trained,
            frozen=total - trained,
            memory_mb=_PROCESS_MB + 4 * (states + total) / 2**20,
            seconds=None if cost is None else cost.flops / _flops_per_s(),
        )


def trained_weights(node: StageNode) -> costs.Weights:
    """What a training or evaluation stage holds, and what of it learns."""
    spec = node.spec
    if not isinstance(spec, TrainSpec | EvaluateSpec | RetentionSpec):
        return costs.Weights(trained=0, frozen=0)
    model = model_of(spec.model, spec.tuning)
    return costs.weights_of(model, spec.tuning.kind, learns=node.kind is StageKind.INSTRUCT)


def width_of(node: StageNode) -> int:
    """Width of the model of a stage, on which a GPU's speed depends."""
    spec = node.spec
    if not isinstance(spec, TrainSpec | EvaluateSpec | RetentionSpec):
        return _TOWER_WIDTH
    return model_of(spec.model, spec.tuning).hidden_size


@memoize
def model_of(model: VlmSpec, tuning: TuningConfig) -> Footprint:
    """The counted model of a spec."""
    return footprint(_empty(model), tuning)


@memoize
def _empty(model: VlmSpec) -> EmptyVlm:
    return empty_vlm(model.tower, model.connector, model.language_model)


@memoize
def _saved(model: VlmSpec, tuning: TuningConfig, *, learns: bool, dtype: torch.dtype) -> float:
    return saved_bytes_per_token(_empty(model), tuning, learns=learns, dtype=dtype)


@memoize
def _image_flops(tower: VisionTowerConfig) -> float:
    return tower_flops(empty_vision_tower(tower))


@memoize
def _flops_per_s() -> float:
    """What one core achieves: a matrix product, timed, times the share that training reaches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    matrix = torch.ones(_PROBE, _PROBE)
    matrix @ matrix
    begin = time.perf_counter()
    matrix @ matrix
    seconds = time.perf_counter() - begin
    torch.set_num_threads(threads)
    return _ACHIEVED * 2 * _PROBE**3 / seconds

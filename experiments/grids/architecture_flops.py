"""Architectures at equal operations: which is best if each may cost what the linear one costs?"""

import tempfile
from pathlib import Path
from typing import Any

from configuration.axes import vary
from configuration.mixture import expected_manifests
from configuration.replacing import replace_fields
from configuration.run_config import RunConfig
from experiments.grids.architecture_ablation import hypotheses as linear_suffices
from experiments.grids.architecture_ablation import uncompiled, variants
from pipeline.stages.align import AlignStage
from pipeline.stages.instruct import InstructStage
from planner.estimator import Estimator

hypotheses: dict[str, dict[str, Any]] = linear_suffices
_REFERENCE = "linear"
_STAGES = (AlignStage, InstructStage)


def cells(base: RunConfig) -> list[RunConfig]:
    """Return the cells of `architecture_ablation` with other numbers of steps in both stages.

    A stage of every cell executes the operations of that of the linear connector, as the plan
    counts them: with a cache of features, those of the tower do not count.
    """
    base, settings = uncompiled(base), variants(base)
    with tempfile.TemporaryDirectory() as folder:
        estimator = Estimator(expected_manifests(base), Path(folder))
        flops = {
            name: _stage_flops(replace_fields(base, values), estimator)
            for name, values in settings.items()
        }
    for name, values in settings.items():
        for stage, own in flops[name].items():
            steps = getattr(base, stage).num_steps * flops[_REFERENCE][stage] / own
            values[f"{stage}.num_steps"] = max(1, round(steps))
    return vary(base, {"architecture": settings})


def _stage_flops(config: RunConfig, estimator: Estimator) -> dict[str, float]:
    """Return the operations of both training stages by kind."""
    has_tower = not config.model.has_feature_cache
    stages = [stage for kind in _STAGES if (stage := kind.from_config(config)) is not None]
    return {
        stage.kind: estimator.training_size(stage, has_tower=has_tower).flops for stage in stages
    }

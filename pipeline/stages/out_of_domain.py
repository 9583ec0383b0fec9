"""Stage kinds of the out-of-domain benchmarks: their images differ in kind from those of training.

They are not shipped. A cell has these stages only where such benchmarks exist. They are separate
stages, so that the addresses of all others do not depend on that.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Self

from configuration.mixture import out_of_domain_manifests
from configuration.run_config import RunConfig
from pipeline.stages.base import InputRole, NodeT
from pipeline.stages.evaluate import EvaluateStage, choose_last_training
from pipeline.stages.features import FeaturesStage


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutOfDomainFeaturesStage(FeaturesStage):
    """Features of the frozen tower for the images of the out-of-domain benchmarks."""

    kind: ClassVar[str] = "out_of_domain_features"

    @classmethod
    def from_config(cls, config: RunConfig) -> Self | None:
        """Collect the out-of-domain benchmarks that exist."""
        paths = out_of_domain_manifests(config)
        if not paths or not config.model.has_feature_cache:
            return None
        return cls(tower=config.model.vision, sources=tuple(sorted(paths)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutOfDomainStage(EvaluateStage):
    """The evaluation of one trained model on the out-of-domain benchmarks."""

    kind: ClassVar[str] = "out_of_domain"
    upstream: ClassVar[tuple[str, ...]] = ("out_of_domain_features", "align", "instruct")

    @classmethod
    def from_config(cls, config: RunConfig) -> Self | None:
        """Evaluate the last training stage of a cell, if an out-of-domain benchmark exists."""
        paths = out_of_domain_manifests(config)
        return cls.of_benchmarks(config, paths) if paths else None

    @classmethod
    def choose_inputs(cls, available: Mapping[str, NodeT]) -> dict[str, NodeT]:
        """Choose the last training stage, and the features of these benchmarks."""
        features = available.get(OutOfDomainFeaturesStage.kind)
        trained = {kind: node for kind, node in available.items() if kind in _TRAININGS}
        inputs = choose_last_training(trained)
        return inputs if features is None else {InputRole.FEATURES.value: features, **inputs}


_TRAININGS = (InputRole.ALIGN, InputRole.INSTRUCT)

"""Checks of amounts of target-language data before anything is trained."""

from collections.abc import Mapping
from pathlib import Path

from core.errors import ConfigError
from datamodules.mixture.config import ComponentConfig, MixtureConfig
from datamodules.mixture.curriculum import mixture_schedule
from datamodules.mixture.target_samples import plan_numbers
from datamodules.shards.manifest import load_manifest
from pipeline.stages.training import TrainingStage


def planned_target_share(stage: TrainingStage, expected: Mapping[str, int]) -> float | None:
    """Check the amounts of a training stage, and return the share that a number of samples means.

    Args:
        stage: A training stage.
        expected: Path of each manifest that does not exist yet -> expected number of samples.

    Returns:
        The share of the different samples that have the target language; None if the mixture has no
        `target_samples`.

    Raises:
        ConfigError: If the stage serves fewer different samples.
    """
    mixture = stage.stream.mixture
    if mixture.target_samples is None:
        return None
    sizes = _sizes(mixture, expected)
    try:
        planned = plan_numbers(mixture, mixture_schedule(mixture), sizes).values()
    except ConfigError as error:
        raise ConfigError(f"{stage.kind}: {error}") from error
    capacity = sum(one.capacity for one in planned)
    return sum(one.number for one in planned) / capacity if capacity else 0.0


def count_different_images(stage: TrainingStage, expected: Mapping[str, int]) -> int:
    """Return the number of different samples with two languages that a training stage serves.

    Args:
        stage: A training stage.
        expected: Path of each manifest that does not exist yet -> expected number of samples.
    """
    mixture = stage.stream.mixture
    schedule, sizes = mixture_schedule(mixture), _sizes(mixture, expected)
    counts = schedule.prefix_counts(stage.num_steps * schedule.samples_per_step)
    served = dict(zip(sorted(mixture.components), counts.tolist(), strict=True))
    return sum(min(sizes[name], served[name]) for name in mixture.parallel)


def _sizes(mixture: MixtureConfig, expected: Mapping[str, int]) -> dict[str, int]:
    return {name: _num_samples(part, expected) for name, part in mixture.components.items()}


def _num_samples(part: ComponentConfig, expected: Mapping[str, int]) -> int:
    if part.base in expected and not Path(part.base).exists():
        return expected[part.base]
    return load_manifest(Path(part.base)).num_samples

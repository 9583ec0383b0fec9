"""Configuration of a mixture: its components, their shares and their phases.

Separate from `stream`, which opens the sources and assigns stream positions to samples.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from enum import StrEnum

from core.config import ABSENT_IF_NONE
from core.errors import ConfigError


class ShareOf(StrEnum):
    """Unit in which the share of the target language is measured."""

    SAMPLES = "samples"
    LOSS_TOKENS = "loss_tokens"
    """Tokens that count in the loss: a language with longer answers gets fewer images."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """Changed values of a component from one step on; omitted fields keep their values."""

    from_step: int
    """First optimizer step of the phase."""
    samples_per_step: float | None = None
    """Samples of the component per step from here on; 0 pauses the component."""
    target_share: float | None = None
    """Share of the target language from here on."""

    def __post_init__(self) -> None:
        """Validate the values."""
        where = f"phase from step {self.from_step}"
        if self.from_step < 1:
            raise ConfigError(
                f"{where}, expected 1 or more; set the values for step 0 in the component itself"
            )
        if self.samples_per_step is None and self.target_share is None:
            raise ConfigError(f"{where} changes nothing; set samples_per_step or target_share")
        samples, share = self.samples_per_step, self.target_share
        if samples is not None and not (math.isfinite(samples) and samples >= 0):
            raise ConfigError(f"{where}: samples_per_step={samples}, expected 0 or more")
        if share is not None and not 0.0 <= share <= 1.0:
            raise ConfigError(f"{where}: target_share={share}, expected a share within 0..1")


def check_order(phases: Sequence[Phase]) -> None:
    """Check that phases are listed in ascending order.

    Raises:
        ConfigError: If two are not; the message names both.
    """
    for before, after in itertools.pairwise(phases):
        if after.from_step <= before.from_step:
            raise ConfigError(
                f"phase from step {before.from_step} is followed by phase from step "
                f"{after.from_step}; list phases in ascending order, each step once"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ComponentConfig:
    """One part of the mixture: a source, or two parallel sources with one language per sample."""

    base: str
    """Manifest of the source (in the base language if `target` is given)."""
    samples_per_step: float
    """Samples of this component per optimizer step, over all ranks; may be a fraction."""
    target: str = ""
    """Manifest with the same samples in the target language, if any."""
    target_share: float = 0.0
    """Share of the component that is read from `target`, in units of `share_of`."""
    max_epochs: float = 1000.0
    """Maximum number of times the component may be repeated; more is an error."""
    share_of: ShareOf = ShareOf.SAMPLES
    """Unit of `target_share`."""
    phases: list[Phase] = dataclasses.field(default_factory=list)
    """Curriculum: changed values from later steps on, in ascending order."""

    def __post_init__(self) -> None:
        """Validate everything that does not require the data."""
        if not self.base:
            raise ConfigError("component without 'base'; set it to the manifest of its source")
        if not 0.0 <= self.target_share <= 1.0:
            raise ConfigError(f"target_share={self.target_share}, expected a share within 0..1")
        check_order(self.phases)
        shares = [self.target_share, *(phase.target_share or 0.0 for phase in self.phases)]
        if max(shares) > 0 and not self.target:
            raise ConfigError(
                f"target_share={max(shares)} needs 'target': the manifest that is parallel "
                f"to {self.base}"
            )
        if self.share_of is not ShareOf.SAMPLES and not self.target:
            raise ConfigError(
                f"share_of={self.share_of.value} needs 'target', but {self.base} has no second "
                "language; remove share_of"
            )
        is_later = any(phase.samples_per_step for phase in self.phases)
        smallest_allowed = self.samples_per_step >= 0 if is_later else self.samples_per_step > 0
        if not (math.isfinite(self.samples_per_step) and smallest_allowed):
            raise ConfigError(
                f"samples_per_step={self.samples_per_step}, expected a positive number; remove "
                "unused components"
            )
        if not self.max_epochs > 0:
            raise ConfigError(f"max_epochs={self.max_epochs}, expected a positive number")

    def at(self, step: int) -> tuple[float, float]:
        """Return the samples per step and the share of the target language at a step."""
        samples, share = self.samples_per_step, self.target_share
        for phase in self.phases:
            if phase.from_step <= step:
                samples = samples if phase.samples_per_step is None else phase.samples_per_step
                share = share if phase.target_share is None else phase.target_share
        return samples, share

    def used_manifests(self) -> list[str]:
        """Return the manifests that any phase reads from."""
        starts = (0, *(phase.from_step for phase in self.phases))
        shares = [share for samples, share in map(self.at, starts) if samples > 0]
        used = [self.base] if min(shares) < 1 else []
        return [*used, self.target] if max(shares) > 0 else used

    def samples_in(self, num_steps: int) -> float:
        """Return the number of samples in the first `num_steps` steps."""
        starts = [0, *(phase.from_step for phase in self.phases)]
        stops = [*starts[1:], num_steps]
        lengths = [max(0, min(b, num_steps) - a) for a, b in zip(starts, stops, strict=True)]
        return sum(n * self.at(start)[0] for n, start in zip(lengths, starts, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TargetSamples:
    """Amount of target-language data, as a number of samples instead of a share."""

    number: int
    """Number of different samples that are read in the target language, over all components."""
    num_steps: int
    """Optimizer steps of the stage, which decide which samples are read at all."""
    num_base: int | None = None
    """Number of different samples that are read in the base language; the others are not used. None
    for all others that the stage reads."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MixtureConfig:
    """Components of the training data, their proportions, and the seed of their order."""

    components: dict[str, ComponentConfig]
    """Components by name. The name keys the order of a component: renaming a component reshuffles
    it, adding other components does not."""
    seed: int = 0
    target_samples: TargetSamples | None = dataclasses.field(default=None, metadata=ABSENT_IF_NONE)
    """Amount of target-language data; None for the shares of the components."""

    def __post_init__(self) -> None:
        """Check that the mixture is not empty, and that an amount excludes shares."""
        if not self.components:
            raise ConfigError("the mixture has no components; add at least one")
        if self.target_samples is None:
            return
        if not self.parallel:
            raise ConfigError(
                f"target_samples={self.target_samples.number}, but no component has a second "
                "language; add image data or remove target_samples"
            )
        for name, part in self.parallel.items():
            if part.target_share or any(phase.target_share is not None for phase in part.phases):
                raise ConfigError(
                    f"component '{name}' has a target_share, and the mixture has target_samples="
                    f"{self.target_samples.number}; remove the share, also from phases"
                )
            if part.share_of is not ShareOf.SAMPLES:
                raise ConfigError(
                    f"component '{name}' has share_of={part.share_of.value}, but target_samples="
                    f"{self.target_samples.number} counts samples; remove share_of"
                )

    @property
    def parallel(self) -> dict[str, ComponentConfig]:
        """The components that have a second language, by name, sorted."""
        return {name: part for name, part in sorted(self.components.items()) if part.target}

    def used_manifests(self) -> list[str]:
        """Return the manifests that any phase of any component may read from, each once."""
        paths = [path for part in self.components.values() for path in part.used_manifests()]
        if self.target_samples is not None and self.target_samples.number > 0:
            paths += [part.target for part in self.parallel.values()]
        return list(dict.fromkeys(paths))

"""What a mixture is made of, as it is written down: components, their shares, their phases.

Kept apart from `mixture`, which opens the sources and deals out positions.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from enum import StrEnum

from core.errors import ConfigError


class ShareOf(StrEnum):
    """What the share of the target language is a share of."""

    SAMPLES = "samples"
    LOSS_TOKENS = "loss_tokens"
    """Tokens that the loss counts: a language with longer answers gets fewer images."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """From a step on, other shares; what is left out stays as it was."""

    from_step: int
    """First optimizer step of the phase."""
    samples_per_step: float | None = None
    """Samples of the component in one step from here on; 0 rests it."""
    target_share: float | None = None
    """Share of the target language from here on."""

    def __post_init__(self) -> None:
        """Check what can be checked without the others."""
        where = f"phase from step {self.from_step}"
        if self.from_step < 1:
            raise ConfigError(
                f"{where}, expected 1 or more; what holds from the start stands in the component"
            )
        if self.samples_per_step is None and self.target_share is None:
            raise ConfigError(f"{where} changes nothing; give samples_per_step or target_share")
        samples, share = self.samples_per_step, self.target_share
        if samples is not None and not (math.isfinite(samples) and samples >= 0):
            raise ConfigError(f"{where}: samples_per_step={samples}, expected 0 or more")
        if share is not None and not 0.0 <= share <= 1.0:
            raise ConfigError(f"{where}: target_share={share}, expected a share within 0..1")


def check_order(phases: Sequence[Phase]) -> None:
    """Refuse phases that do not follow one another.

    Raises:
        ConfigError: with the two that do not.
    """
    for before, after in itertools.pairwise(phases):
        if after.from_step <= before.from_step:
            raise ConfigError(
                f"phases from step {before.from_step} and then from step {after.from_step}; "
                "list them in ascending order, each once"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ComponentConfig:
    """One part of the mixture: a source, or two parallel ones of which each sample takes one."""

    base: str
    """Manifest of the source (of the base language, when `target` is given)."""
    samples_per_step: float
    """Samples of this component in one optimizer step, over all ranks; may be a fraction."""
    target: str = ""
    """Manifest with the same samples in the target language, if any."""
    target_share: float = 0.0
    """Share of the component that is read from `target`, in the unit of `share_of`."""
    max_epochs: float = 1000.0
    """Refuse to run when the component would be repeated more often than this."""
    share_of: ShareOf = ShareOf.SAMPLES
    """What `target_share` is a share of."""
    phases: list[Phase] = dataclasses.field(default_factory=list)
    """A curriculum: other values from later steps on, in ascending order."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        if not self.base:
            raise ConfigError("component without 'base'; name the manifest of its source")
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
                f"share_of={self.share_of.value} without 'target': {self.base} has no second "
                "language to share with; leave share_of out"
            )
        is_later = any(phase.samples_per_step for phase in self.phases)
        smallest_allowed = self.samples_per_step >= 0 if is_later else self.samples_per_step > 0
        if not (math.isfinite(self.samples_per_step) and smallest_allowed):
            raise ConfigError(
                f"samples_per_step={self.samples_per_step}, expected a positive number; leave an "
                "unused component out"
            )
        if not self.max_epochs > 0:
            raise ConfigError(f"max_epochs={self.max_epochs}, expected a positive number")

    def at(self, step: int) -> tuple[float, float]:
        """Samples per step, and share of the target language, that hold at a step."""
        samples, share = self.samples_per_step, self.target_share
        for phase in self.phases:
            if phase.from_step <= step:
                samples = samples if phase.samples_per_step is None else phase.samples_per_step
                share = share if phase.target_share is None else phase.target_share
        return samples, share

    def samples_in(self, num_steps: int) -> float:
        """Samples in so many steps from the start."""
        starts = [0, *(phase.from_step for phase in self.phases)]
        stops = [*starts[1:], num_steps]
        lengths = [max(0, min(b, num_steps) - a) for a, b in zip(starts, stops, strict=True)]
        return sum(n * self.at(start)[0] for n, start in zip(lengths, starts, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MixtureConfig:
    """What is trained on, in which proportion, in which order."""

    components: dict[str, ComponentConfig]
    """By name, which keys a component's order: renaming reshuffles it, adding others does not."""
    seed: int = 0

    def __post_init__(self) -> None:
        """An empty mixture can't be run."""
        if not self.components:
            raise ConfigError("the mixture has no components; add at least one")

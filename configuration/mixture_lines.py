"""Lines of the mixture of a training stage, as users write them."""

import dataclasses

from core.errors import ConfigError
from datamodules.mixture.config import ShareOf


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """Values of a mixture line from a point of the training on; omitted values stay unchanged."""

    from_step: int | None = None
    """First optimizer step of the phase."""
    from_fraction: float | None = None
    """First step as a fraction of the steps of the stage, rounded to the nearest step."""
    samples_per_step: float | None = None
    """Samples per optimizer step in this phase; 0 pauses the source."""
    target_share: float | None = None
    """Share of the target language in this phase; overrides the share of the cell."""

    def __post_init__(self) -> None:
        """Validate that the start is given exactly once."""
        if (self.from_step is None) == (self.from_fraction is None):
            raise ConfigError(
                f"phase with from_step={self.from_step}, from_fraction={self.from_fraction}; "
                "set exactly one of them"
            )
        if self.from_fraction is not None and not 0.0 < self.from_fraction < 1.0:
            raise ConfigError(f"from_fraction={self.from_fraction}: must be between 0 and 1")

    def first_step(self, num_steps: int) -> int:
        """Return the first step of the phase in a stage of `num_steps` steps."""
        if self.from_step is not None:
            return self.from_step
        return round((self.from_fraction or 0.0) * num_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureLineConfig:
    """One line of a mixture; its source is named without the language."""

    source: str
    """Name of the source: `emoji_instruct` refers to emoji_instruct_en and emoji_instruct_eu."""
    samples_per_step: float
    """Samples per optimizer step from this source; 0 skips the source."""
    max_epochs: float = 200.0
    """Maximum number of passes over the source; more are an error."""
    share_of: ShareOf = ShareOf.SAMPLES
    """Unit of the target share: samples or loss tokens."""
    base_only: bool = False
    """Serve an image source in the base language only, whatever the share; the share then concerns
    the other sources."""
    language: str = ""
    """Language in place of `languages.target`; only `languages.second` is possible."""
    phases: list[PhaseConfig] = dataclasses.field(default_factory=list)
    """Curriculum: values for later steps (docs/guides/mixtures.md)."""

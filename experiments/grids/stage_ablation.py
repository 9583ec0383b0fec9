"""Training stages: what does each contribute? Without stage 1, stage 1 only, both."""

from configuration.axes import vary
from configuration.run_config import RunConfig, Stages


def cells(base: RunConfig) -> list[RunConfig]:
    """Return three cells at the configured share."""
    return vary(base, stages=(Stages.INSTRUCT_ONLY, Stages.ALIGN_ONLY, Stages.BOTH))

"""The part of a command line that selects a grid: experiment, profile, overrides, cells, seeds."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridRequest:
    """A request for the cells of one experiment."""

    experiment: str
    profile: str = "embedded"
    """Name of a configuration file in configs/, without its suffix."""
    only: tuple[str, ...] = ()
    """Substrings of cell ids; empty selects every cell."""
    overrides: tuple[str, ...] = ()
    """Configuration values as KEY=VALUE, applied in order."""
    num_seeds: int = 1
    """Training seeds per cell."""
    root: Path = Path("mlruns")
    """Output folder of all runs."""
    is_dry_run: bool = False
    """Whether the plan is only displayed: missing datasets are then replaced by their estimates."""

"""The part of a command line that selects a grid: experiment, profile, overrides, cells, seeds."""

import dataclasses
import re
from pathlib import Path

from core.errors import ConfigError
from core.file_names import FILE_NAME, FILE_NAME_ADVICE


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridRequest:
    """A request for the cells of one experiment."""

    experiment: str
    """Name of an experiment."""
    experiment_file: Path | None = None
    """File that defines the experiment; None for one of `experiments/grids`."""
    profile: str = "embedded"
    """Name of a configuration file in configs/, without its suffix."""
    only: tuple[str, ...] = ()
    """Substrings of cell ids, or AXIS=VALUE; empty selects every cell."""
    overrides: tuple[str, ...] = ()
    """Configuration values as KEY=VALUE, applied in order."""
    num_seeds: int = 1
    """Training seeds per cell."""
    replicate: tuple[str, ...] = ()
    """Training seeds of selected cells, as SELECTOR=N."""
    name: str = ""
    """Name of the grid's folder; empty for EXPERIMENT-PROFILE."""
    root: Path = Path("mlruns")
    """Output folder of all runs."""
    is_dry_run: bool = False
    """Whether the plan is only displayed: missing datasets are then replaced by their estimates."""

    def __post_init__(self) -> None:
        """Check that the names can be those of folders."""
        if self.name and not FILE_NAME.fullmatch(self.name):
            raise ConfigError(f"--name '{self.name}': {FILE_NAME_ADVICE}")
        if re.search(r"[\x00-\x1f\x7f]", str(self.root)):
            raise ConfigError(
                f"--root {str(self.root)!r}: line feeds and other control characters are not "
                "supported; rename it"
            )

    @staticmethod
    def split_experiment(text: str) -> tuple[str, Path | None]:
        """Return the name of the experiment that `--exp` selects, and its file if it is one."""
        if not text.endswith(".py") and "/" not in text:
            return text, None
        path = Path(text).expanduser()
        return path.stem, path

    @property
    def grid_name(self) -> str:
        """Name of the grid's folder."""
        return self.name or f"{self.experiment}-{self.profile}"

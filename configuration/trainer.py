"""How and where stage runs are computed: what people set under `trainer`."""

import dataclasses

from core.errors import ConfigError
from core.precision import Precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Where and how fast it is computed; all but `precision` leave the result as it is."""

    accelerator: str = "cpu"
    """Lightning accelerator."""
    devices: int = 1
    """Processes per stage run, on each of its machines."""
    num_nodes: int = 1
    """Machines that train a stage together (docs/running/clusters.md)."""
    hung_after_s: float = 900.0
    """A training that gets no step done for so long is stopped, with what every thread was doing in
    its log, and goes on from its last checkpoint. Also the time limit of a collective."""
    retries: int = 3
    """How often a stage run goes on by itself after a failure that may be its machine's (lost,
    killed, hung, no storage) without having got further; the rules are in
    `pipeline.store.retry_policy`."""
    runs_per_gpu: int = 1
    """Stage runs that share one GPU; small models leave most of it idle."""
    precision: Precision = Precision.FLOAT32
    """Lightning precision; it changes results, so it is part of every training stage's address."""
    num_workers: int = 0
    """DataLoader workers; the order of samples does not depend on them."""
    checkpoint_every_n_steps: int = 50
    """Most steps lost on SIGKILL (and those during which a large state is being written); 0: as
    often as pays, from the measured times of a step and a save and the failures expected."""
    hours_between_failures: float = 24.0
    """Mean time between failures without a warning, for `checkpoint_every_n_steps: 0`. A preemption
    with a grace time loses no step and is none."""
    save_in_background: bool = True
    """Training goes on while a state above 64 MiB is being written."""
    keep_checkpoints: int = 2
    """So many of the newest stay until the stage is done."""
    keep_every_n_steps: int = 0
    """Checkpoints of every so many steps stay too; 0 = none."""
    log_every_n_steps: int = 10
    """Interval of logged metrics."""
    allow_data_change: bool = False
    """Continue a checkpoint on another data stream than its own: a warning, not an error."""

    def __post_init__(self) -> None:
        """Check the numbers that have no type to protect them."""
        for name in (
            "devices",
            "num_nodes",
            "runs_per_gpu",
            "keep_checkpoints",
            "log_every_n_steps",
        ):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"trainer.{name} must be at least 1, got {value}")
        for name in ("hours_between_failures", "hung_after_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"trainer.{name} must be above 0, got {getattr(self, name)}")
        for name in ("retries", "num_workers", "keep_every_n_steps", "checkpoint_every_n_steps"):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"trainer.{name} must be 0 or more, got {value}")

"""Execution settings of stage runs: the section `trainer`."""

import dataclasses
from enum import StrEnum

from core.errors import ConfigError
from core.precision import Precision


class Accelerator(StrEnum):
    """Lightning accelerators on which stage runs can compute."""

    CPU = "cpu"
    GPU = "gpu"
    CUDA = "cuda"
    MPS = "mps"
    """Apple GPUs; not tested."""
    AUTO = "auto"
    """The GPUs of the node that runs the stage, or its CPU if it has none."""

    @property
    def is_gpu(self) -> bool:
        """Return whether CUDA GPUs are requested explicitly."""
        return self in (Accelerator.GPU, Accelerator.CUDA)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Execution settings of stages; only `precision` changes results."""

    accelerator: Accelerator = Accelerator.CPU
    """Lightning accelerator."""
    devices: int = 1
    """Processes (GPUs) per stage run on each node."""
    num_nodes: int = 1
    """Nodes that train a stage together (docs/running/clusters.md)."""
    hung_after_s: float = 900.0
    """A training that completes no step for this long is stopped and resumed from its last
    checkpoint; the stack of every thread is written to its log. Also the timeout of collectives."""
    retries: int = 3
    """Automatic retries of a stage run without progress after failures that the node may have
    caused (lost, killed, hung, no storage); `pipeline.store.retry_policy` has the rules."""
    runs_per_gpu: int = 1
    """Stage runs that share a GPU, for small models that leave most of it idle."""
    precision: Precision = Precision.FLOAT32
    """Precision of training. It changes results and is part of the address of training stages."""
    num_workers: int = 0
    """DataLoader workers; the order of samples does not depend on their number."""
    checkpoint_every_n_steps: int = 50
    """Maximum number of steps lost on SIGKILL (plus those during which a large state is
    written). With 0, the interval follows from the measured times of a step and of a save, and from
    the failure rate."""
    hours_between_failures: float = 24.0
    """Mean time between failures without warning, for `checkpoint_every_n_steps: 0`. Preemptions
    with a grace period lose no step and do not count."""
    save_in_background: bool = True
    """Continue training while a state above 64 MiB is written."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep until the stage is finished."""
    keep_every_n_steps: int = 0
    """Also keep the checkpoints of every n-th step; 0 keeps none."""
    log_every_n_steps: int = 10
    """Interval of logged metrics, in optimizer steps."""
    gradient_agreement_every_n_steps: int = 0
    """Interval of the cosine between the gradients of the languages (`gradient_cosine`), in steps
    and as a multiple of `log_every_n_steps`; 0 never measures it. Each measurement takes about as
    long as the step itself per language, and 4 bytes per trained parameter and language."""
    allow_data_change: bool = False
    """Resume a checkpoint although its data stream was different: a warning instead of an error."""

    def __post_init__(self) -> None:
        """Validate numeric ranges."""
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
        for name in (
            "retries",
            "num_workers",
            "keep_every_n_steps",
            "checkpoint_every_n_steps",
            "gradient_agreement_every_n_steps",
        ):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"trainer.{name} must be 0 or more, got {value}")
        if self.gradient_agreement_every_n_steps % self.log_every_n_steps:
            raise ConfigError(
                f"trainer.gradient_agreement_every_n_steps={self.gradient_agreement_every_n_steps} "
                f"is not a multiple of trainer.log_every_n_steps={self.log_every_n_steps}; "
                "measurements between two lines would be lost"
            )

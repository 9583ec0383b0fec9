"""Fields of a training stage that its cost depends on."""

from typing import Protocol

from configuration.vlm_spec import VlmSpec
from core.precision import Precision
from datamodules.mixture_datamodule import StreamConfig
from lightning_modules.compute import ComputeConfig
from lightning_modules.optim import OptimConfig
from models.freezing import FreezePolicy
from models.language.adapters import TuningConfig


class TrainingFields(Protocol):
    """Fields of a training stage that its cost depends on."""

    @property
    def model(self) -> VlmSpec:
        """Parts of the model."""

    @property
    def stream(self) -> StreamConfig:
        """Data and batch sizes."""

    @property
    def optim(self) -> OptimConfig:
        """Optimizer and schedule."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""

    @property
    def precision(self) -> Precision:
        """Numeric precision."""

    @property
    def tuning(self) -> TuningConfig:
        """Tuning method of the language model."""

    @property
    def compute(self) -> ComputeConfig:
        """Execution settings."""

    @property
    def policy(self) -> FreezePolicy:
        """Parts of the model that are trained."""

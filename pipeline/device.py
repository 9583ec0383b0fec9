"""The device on which a stage without a Trainer computes."""

import torch

from configuration.trainer import Accelerator
from core.errors import ConfigError
from core.process.distributed import local_rank


def uses_gpu(accelerator: Accelerator) -> bool:
    """Return whether a Lightning accelerator refers to a GPU on this node."""
    return accelerator.is_gpu or (accelerator is Accelerator.AUTO and torch.cuda.is_available())


def training_device(accelerator: Accelerator) -> torch.device:
    """Return the device on which Lightning will train in this process: the GPU of its local rank.

    Without a GPU it is the CPU; Lightning reports a GPU that is requested and missing.
    """
    if not uses_gpu(accelerator) or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank())


def compute_device(accelerator: Accelerator) -> torch.device:
    """Return the device of stages that need no Trainer (features, evaluation).

    Raises:
        ConfigError: If a GPU is requested and none is visible.
    """
    if not uses_gpu(accelerator):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"trainer.accelerator={accelerator}, but torch sees no GPU here; set it to cpu"
        )
    return torch.device("cuda", 0)

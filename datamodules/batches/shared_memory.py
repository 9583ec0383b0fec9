"""Shared memory for the steps that loader workers have prepared and that are not used yet."""

import dataclasses

import torch

from core.errors import ConfigError, DataError
from core.process.log import get_logger
from core.process.machine import SharedMemory
from datamodules.batches.step_dataset import StepDataset, global_batch, prepare_sample

_LOG = get_logger(__name__)
PREPARED_STEPS = 2
"""Steps that a worker prepares ahead (`prefetch_factor` of torch's DataLoader)."""
_TOKEN_BYTES = 7 * 8
"""Ids, labels, positions, documents, branches, and at most two lists of positions (int64)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LoaderDemand:
    """Shared memory that the loaders of a node need at once."""

    step_bytes: int
    """Size of one rank's part of a step."""
    num_workers: int
    """Loader workers of a rank."""
    num_ranks: int
    """Ranks on the node, which share its memory."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the prepared steps and of the one in use, on all ranks."""
        return self.step_bytes * (self.num_workers * PREPARED_STEPS + 1) * self.num_ranks

    def check(self, memory: SharedMemory) -> None:
        """Compare the demand with the shared memory of the node.

        Raises:
            ConfigError: If it can't fit. A worker would die of a bus error in the middle of a step.
        """
        if self.num_bytes <= memory.free:
            return
        message = (
            f"the loaders of this node need {_gib(self.num_bytes)} of shared memory (/dev/shm) for "
            f"{self.num_workers} workers x {PREPARED_STEPS} steps of {_gib(self.step_bytes)} on "
            f"{self.num_ranks} ranks, but %s. Start the container with "
            f"--shm-size={-(-self.num_bytes // (1 << 30)) + 1}g (Kubernetes: an emptyDir with "
            "medium Memory at /dev/shm), or lower trainer.num_workers"
        )
        if self.num_bytes > memory.total:
            raise ConfigError(message % f"it has {_gib(memory.total)}")
        _LOG.warning(message, f"only {_gib(memory.free)} are free")


def estimate_step_bytes(dataset: StepDataset, step: int) -> int:
    """Estimate the size of one rank's part of a step from its plan and one image."""
    data = dataset.data
    batch = [planned for planned in global_batch(data, step) if planned.num_tokens]
    num_tokens = sum(planned.num_tokens for planned in batch)
    with_image = [planned for planned in batch if planned.source.has_images]
    image_bytes = 0
    for planned in with_image:
        try:
            image = prepare_sample(data, planned).image
        except DataError:  # skipped, and counted when its step is read
            continue
        if isinstance(image, torch.Tensor):
            image_bytes = image.nbytes
        elif image is not None:
            image_bytes = sum(tensor.nbytes for tensor in image.values())
        break
    total = num_tokens * _TOKEN_BYTES + len(with_image) * image_bytes
    return -(-total // dataset.world_size)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.2f} GiB"

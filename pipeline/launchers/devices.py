"""Assignment of the GPUs of this node to stage runs."""

import dataclasses
import itertools
import os

import torch

from configuration.trainer import TrainerConfig
from core.errors import ConfigError
from pipeline.device import uses_gpu
from pipeline.launchers.environment import CUDA_VISIBLE_DEVICES


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuSlots:
    """The slots for stage runs on the GPUs of this node."""

    gpus: tuple[str, ...]
    """Value of CUDA_VISIBLE_DEVICES in each slot; empty if stage runs compute on CPUs."""

    @classmethod
    def of(cls, config: TrainerConfig) -> "GpuSlots":
        """Divide the visible GPUs into slots of `config.devices` GPUs.

        Raises:
            ConfigError: If fewer GPUs are visible than one stage run needs.
        """
        if not uses_gpu(config.accelerator):
            return NO_GPUS
        names = visible_gpus()
        if len(names) < config.devices:
            raise ConfigError(
                f"trainer.devices={config.devices}, but only {len(names)} GPUs are visible"
            )
        num_groups = len(names) // config.devices
        groups = [
            ",".join(names[i * config.devices : (i + 1) * config.devices])
            for i in range(num_groups)
        ]
        return cls(gpus=tuple(groups * config.runs_per_gpu))

    def find_free(self, occupied: list[str]) -> str | None:
        """Return the GPUs of a free slot; None if all slots are occupied or there are none."""
        free = list(self.gpus)
        for gpus in occupied:
            if gpus in free:
                free.remove(gpus)
        return free[0] if free else None


NO_GPUS = GpuSlots(gpus=())


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES.

    CUDA sees the devices before the first invalid name: "", "-1" and SLURM's "NoDevFiles" hide all.
    """
    given = os.environ.get(CUDA_VISIBLE_DEVICES)
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        return list(itertools.takewhile(_is_device, names))
    return [str(index) for index in range(torch.cuda.device_count())]


def _is_device(name: str) -> bool:
    """Return whether a name is an index or the identifier of a GPU or of a part of one."""
    return name.isdecimal() or name.startswith(("GPU-", "MIG-"))

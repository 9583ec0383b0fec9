"""Assignment of the GPUs of this node to stage runs."""

import dataclasses
import os

import torch

from configuration.trainer import TrainerConfig
from core.errors import ConfigError
from pipeline.device import uses_gpu


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuSlots:
    """Places for stage runs on the GPUs of this machine."""

    places: tuple[str, ...]
    """Value of CUDA_VISIBLE_DEVICES in each place; empty on a machine that computes on its CPU."""

    @classmethod
    def of(cls, config: TrainerConfig) -> "GpuSlots":
        """As many places as the GPUs allow, each of `devices` of them.

        Raises:
            ConfigError: fewer GPUs than one stage run wants.
        """
        if not uses_gpu(config.accelerator):
            return NO_GPUS
        names = visible_gpus()
        if len(names) < config.devices:
            raise ConfigError(
                f"trainer.devices={config.devices}, but {len(names)} GPUs are visible here"
            )
        groups = len(names) // config.devices
        places = [
            ",".join(names[i * config.devices : (i + 1) * config.devices]) for i in range(groups)
        ]
        return cls(places=tuple(places * config.runs_per_gpu))

    def free(self, taken: list[str]) -> str | None:
        """A place that nobody has, None without one."""
        if not self.places:  # then what runs has no place either
            return None
        left = list(self.places)
        for place in taken:
            if place in left:  # a run that was started without a place has taken none
                left.remove(place)
        return left[0] if left else None


NO_GPUS = GpuSlots(places=())


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    if given := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [name.strip() for name in given.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]

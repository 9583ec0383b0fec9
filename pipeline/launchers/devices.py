"""Assignment of the GPUs of this node to stage runs, each of which gets as many as it needs."""

import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Sequence

import torch

from configuration.trainer import TrainerConfig
from core.errors import ConfigError
from pipeline.device import uses_gpu
from pipeline.launchers.environment import CUDA_VISIBLE_DEVICES
from pipeline.stages.base import Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuPool:
    """The GPUs of this node, in groups of those that train a stage together."""

    gpus: tuple[str, ...]
    """Names as in CUDA_VISIBLE_DEVICES; empty if stage runs compute on CPUs."""
    group_size: int = 1
    """GPUs of a distributed stage run; other stage runs use one GPU."""
    runs_per_gpu: int = 1
    """Stage runs that may share a GPU."""

    @classmethod
    def of(cls, config: TrainerConfig) -> "GpuPool":
        """Return the visible GPUs, in groups of `config.devices`.

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
        return cls(gpus=tuple(names), group_size=config.devices, runs_per_gpu=config.runs_per_gpu)

    def num_needed(self, stage: Stage) -> int:
        """Return the number of GPUs that a stage run uses."""
        return self.group_size if stage.is_distributed else 1

    def assign(self, stage: Stage, occupied: Sequence[str]) -> str | None:
        """Return the GPUs of a stage run as CUDA_VISIBLE_DEVICES, or None if too few are free.

        A distributed stage run gets the least occupied group. Any other gets the least occupied
        GPU, preferably of a group that is in use already, so that groups stay free for training.

        Args:
            stage: Stage of the run.
            occupied: GPUs of every running stage run, as returned by this method.
        """
        runs = Counter(name for gpus in occupied for name in gpus.split(","))
        size = self.group_size
        groups = [self.gpus[i : i + size] for i in range(0, len(self.gpus), size)]
        if self.num_needed(stage) == size:
            candidates = [group for group in groups if len(group) == size]
            chosen = min(candidates, key=lambda group: max(runs[name] for name in group))
        else:
            ranked = [
                (runs[name], len(group) == size and not any(runs[other] for other in group), name)
                for group in groups
                for name in group
            ]
            chosen = (min(ranked, key=lambda entry: entry[:2])[2],)
        is_free = all(runs[name] < self.runs_per_gpu for name in chosen)
        return ",".join(chosen) if is_free else None


NO_GPUS = GpuPool(gpus=())


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

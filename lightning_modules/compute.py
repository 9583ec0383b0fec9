"""How a training step is computed: speed and memory, never what is learned (but for rounding).

Nothing here is part of a stage's address: a run may go on under other settings.
"""

import dataclasses
from enum import StrEnum

from core.errors import ConfigError
from models.language.attention import AttentionKind


class StrategyName(StrEnum):
    """How several devices share the work."""

    AUTO = "auto"
    """One device: none. Several: DDP."""
    DDP = "ddp"
    """Every device holds all weights; right where the trained part is small (stage 1, LoRA)."""
    FSDP2 = "fsdp2"
    """Weights, gradients and optimizer are sharded over all devices, block by block."""
    HSDP = "hsdp"
    """Sharded over the devices of a machine, and each machine holds all: less between machines."""

    @property
    def is_sharded(self) -> bool:
        """Whether a device holds only a part of the weights."""
        return self in (StrategyName.FSDP2, StrategyName.HSDP)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """Levers of one training stage."""

    strategy: StrategyName = StrategyName.AUTO
    """How several devices share the work."""
    checkpoint_blocks: int = 0
    """Recompute the activations of every n-th decoder block: 0 none, 1 all, 2 every other one."""
    compile_blocks: bool = False
    """torch.compile of each decoder block."""
    attention: AttentionKind = AttentionKind.AUTO
    """How packed rows are attended."""
    loss_chunk: int = 0
    """Target positions whose logits exist at once; 0 = all of a micro-batch."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        for name in ("checkpoint_blocks", "loss_chunk"):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"compute.{name} must be 0 or more, got {value}")

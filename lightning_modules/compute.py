"""Speed and memory settings of a training step, which change its result by rounding at most.

They are not part of a stage's address: a run may be resumed with other settings.
"""

import dataclasses
from enum import StrEnum

from core.errors import ConfigError
from models.language.attention import AttentionKind


class StrategyName(StrEnum):
    """Distribution of the work over several devices."""

    AUTO = "auto"
    """DDP for several devices, none for one."""
    DDP = "ddp"
    """Every device holds all weights; suitable if few weights are trained (stage 1, LoRA)."""
    FSDP2 = "fsdp2"
    """Weights, gradients and optimizer are sharded over all devices, block by block."""
    HSDP = "hsdp"
    """Sharded over the devices of a node and replicated over nodes; less traffic between nodes."""

    @property
    def is_sharded(self) -> bool:
        """True if a device holds only a shard of the weights."""
        return self in (StrategyName.FSDP2, StrategyName.HSDP)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """Speed and memory settings of one training stage."""

    strategy: StrategyName = StrategyName.AUTO
    """Distribution of the work over several devices."""
    checkpoint_blocks: int = 0
    """Recompute the activations of every n-th decoder block: 0 none, 1 all, 2 every second one."""
    compile_blocks: bool = False
    """Apply torch.compile to each decoder block."""
    attention: AttentionKind = AttentionKind.AUTO
    """Attention kernel for packed rows."""
    loss_chunk: int = 0
    """Number of loss tokens whose logits exist at once; 0 means all of a micro-batch."""
    reduce_once: bool = False
    """Reduce the gradients of sharded weights once per optimizer step instead of once per
    micro-batch: less communication, but every device holds 4 bytes for each trained weight."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.reduce_once and not self.strategy.is_sharded:
            raise ConfigError(
                f"compute.reduce_once=true needs strategy fsdp2 or hsdp, got {self.strategy}: DDP "
                "always reduces gradients once per step"
            )
        for name in ("checkpoint_blocks", "loss_chunk"):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"compute.{name} must be 0 or more, got {value}")

"""Optimizer and learning-rate schedule."""

import dataclasses
import math
from collections.abc import Iterable
from enum import StrEnum

import torch

from core.errors import ConfigError

MIN_8BIT_SIZE = 4096
"""Smaller tensors (norms, biases) have 32-bit moments, as bitsandbytes recommends."""


class OptimizerName(StrEnum):
    """Optimizer; it affects the result, so it is part of a stage's address."""

    ADAMW = "adamw"
    """Fused AdamW of torch."""
    ADAMW_8BIT = "adamw_8bit"
    """AdamW of bitsandbytes with 8-bit moments, which take a quarter of the memory."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW with a linear warm-up and a cosine decay (LLaVA-1.5 scripts/v1_5/*.sh)."""

    lr: float
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay of all trained parameters."""
    warmup_fraction: float = 0.03
    """Fraction of the steps over which the rate increases linearly from 0."""
    min_lr_fraction: float = 0.0
    """Learning rate at the last step, as a fraction of the peak."""
    beta2: float = 0.999
    """Second-moment decay of AdamW (beta1 is 0.9)."""
    grad_clip: float = 1.0
    """Maximum global gradient norm; 0 disables clipping."""
    optimizer: OptimizerName = OptimizerName.ADAMW
    """Optimizer."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.lr <= 0:
            raise ConfigError(f"optim.lr must be positive, got {self.lr}")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(f"optim.warmup_fraction must be in [0, 1): {self.warmup_fraction}")
        if not 0 <= self.min_lr_fraction <= 1:
            raise ConfigError(f"optim.min_lr_fraction must be in [0, 1]: {self.min_lr_fraction}")
        if not 0 <= self.beta2 < 1:
            raise ConfigError(f"optim.beta2 must be in [0, 1), got {self.beta2}")
        for name in ("weight_decay", "grad_clip"):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"optim.{name} must be 0 or more, got {value}")


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter], config: OptimConfig
) -> torch.optim.Optimizer:
    """Build AdamW over the trainable parameters; `lr_factor` scales its learning rate."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if config.optimizer is OptimizerName.ADAMW_8BIT:
        from bitsandbytes.optim import AdamW8bit  # slow import that most runs do not need

        optimizer: torch.optim.Optimizer = AdamW8bit(
            trainable,
            lr=config.lr,
            betas=(0.9, config.beta2),
            weight_decay=config.weight_decay,
            min_8bit_size=MIN_8BIT_SIZE,
        )
        return optimizer
    return torch.optim.AdamW(
        trainable,
        lr=config.lr,
        betas=(0.9, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )


def lr_factor(step: int, *, num_steps: int, config: OptimConfig) -> float:
    """Return the learning rate of a step as a fraction of the peak."""
    warmup = math.ceil(config.warmup_fraction * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return config.min_lr_fraction + (1.0 - config.min_lr_fraction) * cosine

"""Optimizer and learning-rate schedule."""

import dataclasses
import math
from collections.abc import Iterable
from enum import StrEnum

import torch

from core.config import ABSENT_IF_NONE
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
    """AdamW with a linear warm-up and a cosine decay (LLaVA-1.5 scripts/v1_5/*.sh).

    With `decay_fraction`, the rate is constant after the warm-up and decays linearly at the end
    (warmup-stable-decay: Hu et al., MiniCPM, 2024; Hagele et al., NeurIPS 2024).
    """

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
    warmup_steps: int | None = dataclasses.field(default=None, metadata=ABSENT_IF_NONE)
    """Steps of the warm-up, instead of a fraction, which depends on the number of steps."""
    decay_fraction: float | None = dataclasses.field(default=None, metadata=ABSENT_IF_NONE)
    """Fraction of the steps at the end over which the rate decreases linearly, after a constant
    rate; 0 never decreases it. None decreases it over all steps along a cosine."""

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
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ConfigError(f"optim.warmup_steps must be 0 or more, got {self.warmup_steps}")
        if self.decay_fraction is not None and not 0 <= self.decay_fraction <= 1:
            raise ConfigError(f"optim.decay_fraction must be in [0, 1]: {self.decay_fraction}")
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
    warmup = count_warmup_steps(config, num_steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.decay_fraction is not None:
        start = first_decay_step(config, num_steps)
        progress = max(0, step - start) / max(1, num_steps - start)
        return 1.0 - (1.0 - config.min_lr_fraction) * min(1.0, progress)
    progress = (step - warmup) / max(1, num_steps - warmup)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return config.min_lr_fraction + (1.0 - config.min_lr_fraction) * cosine


def count_warmup_steps(config: OptimConfig, num_steps: int) -> int:
    """Return the number of steps over which the learning rate increases."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    return math.ceil(config.warmup_fraction * num_steps)


def first_decay_step(config: OptimConfig, num_steps: int) -> int:
    """Return the number of steps before the learning rate decreases from its peak.

    Until then, trainings of any number of steps are equal if their warm-up has a number of steps.
    """
    if config.decay_fraction is None:
        return count_warmup_steps(config, num_steps)
    return num_steps - round(config.decay_fraction * num_steps)

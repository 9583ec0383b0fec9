"""How the language model is tuned: every weight, or low-rank adapters, also on 4-bit weights."""

import dataclasses
from enum import StrEnum

from core.errors import ConfigError


class TuningKind(StrEnum):
    """What of the language model learns where it learns at all."""

    FULL = "full"
    """Every weight."""
    LORA = "lora"
    """Low-rank adapters beside frozen weights (Hu et al. 2021)."""
    QLORA = "qlora"
    """The same beside 4-bit (nf4) weights (Dettmers et al. 2023)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Kind and size of the tuning; the sizes are those of LLaVA-1.5's finetune_lora.sh."""

    kind: TuningKind = TuningKind.FULL
    """What learns."""
    rank: int = 128
    """Rank of the adapters."""
    alpha: float = 256.0
    """Their scale is alpha / rank."""
    dropout: float = 0.05
    """Dropout before the adapters."""

    def __post_init__(self) -> None:
        """Check the numbers that have no type to protect them."""
        if self.kind is not TuningKind.FULL:
            raise ConfigError(f"tuning.kind={self.kind} is not there yet; use full")
        if self.rank < 1:
            raise ConfigError(f"tuning.rank must be at least 1, got {self.rank}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"tuning.dropout must lie in 0..1, got {self.dropout}")

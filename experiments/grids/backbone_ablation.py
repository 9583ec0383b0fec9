"""Backbone at three shares: how much of the target language must it know?"""

from configuration.axes import vary
from configuration.run_config import RunConfig

BACKBONE_SHARES = (0.0, 0.2, 1.0)


def cells(base: RunConfig) -> list[RunConfig]:
    """Return every configured backbone at three shares; in the paper, Llama-3.1 against Latxa."""
    return vary(base, backbone=base.suitable_backbones, target_share=BACKBONE_SHARES)

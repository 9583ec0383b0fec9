"""The whole study: backbone x text-only data off/on x share of target-language images."""

from configuration.axes import vary
from configuration.run_config import RunConfig
from experiments.grids.mix_ablation import SHARES


def cells(base: RunConfig) -> list[RunConfig]:
    """Return the full product; 24 cells with two backbones."""
    return vary(
        base, backbone=base.suitable_backbones, text_only=(False, True), target_share=SHARES
    )

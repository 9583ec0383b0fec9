"""How much target-language data is enough: share of images 0..100 % x text-only data off/on."""

from configuration.axes import vary
from configuration.run_config import RunConfig

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def cells(base: RunConfig) -> list[RunConfig]:
    """Twelve cells; PAPER: the sweep of the mixture (0 and 100 % are of uncertain provenance)."""
    return vary(base, text_only=(False, True), target_share=SHARES)

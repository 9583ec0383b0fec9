"""Does text-only target-language data help if images are few? Off/on at small shares."""

from configuration.axes import vary
from configuration.run_config import RunConfig

SMALL_SHARES = (0.0, 0.1, 0.2)


def cells(base: RunConfig) -> list[RunConfig]:
    """Return text-only data off and on, for every backbone, at three small shares."""
    return vary(
        base, backbone=base.suitable_backbones, text_only=(False, True), target_share=SMALL_SHARES
    )

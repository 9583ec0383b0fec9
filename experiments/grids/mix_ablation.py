"""Share of target-language images, with and without text-only data: how much is enough?"""

from configuration.axes import vary
from configuration.run_config import RunConfig

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def cells(base: RunConfig) -> list[RunConfig]:
    """Return twelve cells: the mixture sweep of the paper (its use of 0 and 100 % is uncertain)."""
    return vary(base, text_only=(False, True), target_share=SHARES)

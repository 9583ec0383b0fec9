"""The report's answer to "how much is enough": per setting, from the cells' paired scores."""

from dataclasses import dataclass

import numpy as np

from evaluation.statistics.sufficiency import SufficiencyResult, smallest_sufficient_share
from reporting.paired_scores import Paired, aligned, scores_of_cells
from reporting.preregistration import registered
from reporting.records import GridRecord
from reporting.series import View, percent

_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SufficiencyRow:
    """One share."""

    share: str
    value: str
    confidence: str
    gain: str
    is_enough: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SufficiencyTable:
    """One setting."""

    label: str
    sentence: str
    rows: tuple[SufficiencyRow, ...]


def sufficiency_tables(grid: GridRecord, view: View) -> list[SufficiencyTable]:
    """A table per setting that has several shares; none for grids without a sweep."""
    if not view.is_curve:
        return []
    plan = registered(grid.folder)
    scores = scores_of_cells(grid, view.target, plan.benchmark)
    tables = []
    for setting in view.settings:
        shares = sorted(share for one, share in scores if one == setting)
        if len(shares) > 1:
            parts = aligned([scores[setting, share] for share in shares])
            tables.append(_table(view.label(setting), shares, parts, plan.margin))
    return tables


def _table(label: str, shares: list[float], parts: list[Paired], delta: float) -> SufficiencyTable:
    found = smallest_sufficient_share(
        shares,
        np.stack([part.scores for part in parts]),
        parts[0].images,
        delta=delta,
        seed=_SEED,
    )
    return SufficiencyTable(
        label=label,
        sentence=_sentence(found),
        rows=tuple(
            SufficiencyRow(
                share=percent(point.share),
                value=f"{100 * point.value:.1f} [{100 * point.low:.1f}, {100 * point.high:.1f}]",
                confidence=f"{100 * point.sufficient:.0f} %",
                gain=_gain(point.next_gain) if point.share < 1 else "",
                is_enough=found.smallest is not None and point.share >= found.smallest,
            )
            for point in found.points
        ),
    )


def _gain(gain: tuple[float, float, float] | None) -> str:
    if gain is None:
        return ""
    value, low, high = (100 * part for part in gain)
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _sentence(found: SufficiencyResult) -> str:
    margin = f"{100 * found.delta:g} points"
    detectable = f"{100 * found.detectable:.1f} points"
    power = f"Differences between two cells below {detectable} would mostly stay unseen here."
    if found.smallest is None:
        return f"No share is within {margin} of the best with 95 % confidence: undecided. {power}"
    if found.smallest == found.points[-1].share:
        return f"Only the largest share is within {margin} of the best with confidence. {power}"
    return (
        f"From {percent(found.smallest)} on, every share is within {margin} of the best with 95 % "
        f"confidence. {power}"
    )

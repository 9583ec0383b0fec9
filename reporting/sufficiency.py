"""Smallest sufficient share of target-language data per setting, from the cells' paired scores."""

from dataclasses import dataclass

import numpy as np

from evaluation.statistics.sufficiency import SufficiencyResult, smallest_sufficient_share
from reporting.paired_scores import PairedScores, align_questions, scores_of_cells
from reporting.preregistration import load_registered
from reporting.records import GridRecord
from reporting.series import View
from reporting.settings import format_percent

_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SufficiencyRow:
    """Accuracy, confidence and marginal gain of one share."""

    share: str
    value: str
    confidence: str
    gain: str
    is_enough: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SufficiencyTable:
    """Shares of one setting and the conclusion from them."""

    label: str
    sentence: str
    rows: tuple[SufficiencyRow, ...]


def sufficiency_tables(grid: GridRecord, view: View) -> list[SufficiencyTable]:
    """Return one table per setting with several shares; none for a grid without a sweep."""
    if not view.is_curve:
        return []
    registered = load_registered(grid.folder)
    scores = scores_of_cells(grid, view.target, registered.benchmark)
    tables = []
    for setting in view.settings:
        shares = sorted(share for one, share in scores if one == setting)
        if len(shares) > 1:
            parts = align_questions([scores[setting, share] for share in shares])
            tables.append(_tabulate_shares(view.label(setting), shares, parts, registered.margin))
    return tables


def _tabulate_shares(
    label: str, shares: list[float], parts: list[PairedScores], delta: float
) -> SufficiencyTable:
    found = smallest_sufficient_share(
        shares,
        np.stack([part.scores for part in parts]),
        parts[0].images,
        delta=delta,
        seed=_SEED,
    )
    return SufficiencyTable(
        label=label,
        sentence=_conclude(found),
        rows=tuple(
            SufficiencyRow(
                share=format_percent(point.share),
                value=f"{100 * point.value:.1f} [{100 * point.low:.1f}, {100 * point.high:.1f}]",
                confidence=f"{100 * point.sufficient:.0f} %",
                gain=_format_gain(point.next_gain) if point.share < 1 else "",
                is_enough=found.smallest is not None and point.share >= found.smallest,
            )
            for point in found.points
        ),
    )


def _format_gain(gain: tuple[float, float, float] | None) -> str:
    if gain is None:
        return ""
    value, low, high = (100 * part for part in gain)
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _conclude(found: SufficiencyResult) -> str:
    margin = f"{100 * found.delta:g} points"
    power = (
        f"With this benchmark, differences between two cells below {100 * found.detectable:.1f} "
        "points would usually go undetected."
    )
    if found.smallest is None:
        return (
            f"No share can be shown to be within {margin} of the best with 95 % confidence, so "
            f"the question remains undecided. {power}"
        )
    if found.smallest == found.points[-1].share:
        return (
            f"Only the largest share can be shown to be within {margin} of the best with 95 % "
            f"confidence. {power}"
        )
    return (
        f"All shares of {format_percent(found.smallest)} and above are within {margin} of the "
        f"best with 95 % confidence. {power}"
    )

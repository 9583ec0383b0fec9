"""Sufficient shares of target-language data per setting, from the cells' paired scores."""

from dataclasses import dataclass

import numpy as np

from evaluation.statistics.sweeps.sufficiency import (
    SharePoint,
    SufficiencyResult,
    sufficient_shares,
)
from reporting.claims.claim_decisions import shows_nothing
from reporting.claims.hypotheses_schema import ClaimKind
from reporting.claims.measures import Measure, Measurements, deciding_column
from reporting.claims.paired_scores import CellScores, align_items
from reporting.claims.preregistration import load_registered
from reporting.records import GridRecord
from reporting.series import View
from reporting.settings import SHARE, format_percent, without_amount

_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SufficiencyRow:
    """Accuracy, p-values and marginal gain of one share."""

    share: str
    value: str
    p_sufficient: str
    p_insufficient: str
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
    measure = Measure(
        kind=ClaimKind.VQA, language=view.target, column=deciding_column(grid.deciding_metric)
    )
    cells = Measurements(grid).cells(measure)
    margin = load_registered(grid.folder).margin
    tables = []
    for setting in view.settings:
        shares = {
            float(str(dict(cell)[SHARE])): values
            for cell, values in cells.items()
            if SHARE in dict(cell) and without_amount(cell) == setting
        }
        if len(shares) > 1:
            tables.append(_tabulate_shares(view.label(setting), shares, margin))
    return tables


def _tabulate_shares(label: str, cells: dict[float, CellScores], delta: float) -> SufficiencyTable:
    shares = sorted(cells)
    parts = align_items(cells[share] for share in shares)
    # A cell that replies in the wrong language or guesses has not started to learn from its share:
    # it lies on no curve of learning, and would bend the one through the others.
    left_out = [share for share in shares if shows_nothing(cells[share])]
    found = sufficient_shares(
        shares,
        np.stack([part.values for part in parts]),
        parts[0].images,
        delta=delta,
        seed=_SEED,
        left_out_of_curve=left_out,
    )
    sentence = _conclude(found)
    if left_out and found.curve is not None:
        named = ", ".join(map(format_percent, left_out))
        sentence += f" The curve leaves out {named}, where the cell does not exceed its baselines."
    if mute := [share for share in left_out if share in found.sufficient]:
        sentence += (
            f" At {', '.join(map(format_percent, mute))}, the cell does not exceed its baselines: "
            "that it is close to the best does not show that the share is sufficient."
        )
    return SufficiencyTable(
        label=label,
        sentence=sentence,
        rows=tuple(
            SufficiencyRow(
                share=format_percent(point.share),
                value=_format_value(point),
                p_sufficient=f"{point.p_sufficient:.3f}",
                p_insufficient=f"{point.p_insufficient:.3f}",
                gain=_format_gain(point.next_gain) if point.share < 1 else "",
                is_enough=point.share in found.sufficient,
            )
            for point in found.points
        ),
    )


def _format_gain(gain: tuple[float, float, float] | None) -> str:
    if gain is None:
        return ""
    value, low, high = (100 * part for part in gain)
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _format_value(point: SharePoint) -> str:
    if point.low is None or point.high is None:
        return f"{100 * point.value:.1f}"
    return f"{100 * point.value:.1f} [{100 * point.low:.1f}, {100 * point.high:.1f}]"


def _conclude(found: SufficiencyResult) -> str:
    margin = f"{100 * found.delta:.3g} points"
    if found.reason:
        return f"Nothing can be decided: {found.reason}."
    sentences = []
    if not found.sufficient:
        sentences.append(
            f"No share can be shown to be within {margin} of the best with 95 % confidence, so the "
            "question remains undecided."
        )
    else:
        named = ", ".join(format_percent(share) for share in found.sufficient)
        sentences.append(
            f"With 95 % confidence, these shares are all within {margin} of the best: {named}."
        )
    sentences += [
        f"The curve is not monotone: the accuracy at {format_percent(drop.larger)} is "
        f"{-100 * drop.difference:.1f} points lower than at {format_percent(drop.smaller)} "
        f"(corrected p = {drop.p_value:.3f})."
        for drop in found.drops
    ]
    if found.detectable is not None:
        sentences.append(
            "With this benchmark, differences between two cells below "
            f"{100 * found.detectable:.1f} points would usually go undetected."
        )
    return " ".join(sentences)

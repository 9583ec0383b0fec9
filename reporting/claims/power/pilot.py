"""Variances that a power calculation assumes: measured on finished cells of the grid, if any."""

import dataclasses

from evaluation.statistics.trainings.power_assumptions import PowerAssumptions, measure_assumptions
from reporting.claims.claim_decisions import shows_nothing
from reporting.claims.hypotheses_schema import ClaimKind
from reporting.claims.measures import Measure, Measurements, deciding_column
from reporting.claims.paired_scores import align_items
from reporting.records import GridRecord

ATTRIBUTABLE_SD = 0.57
"""Standard deviation over questions of the difference of two cells in score minus blind score;
measured on `mix_ablation` (embedded, 1,000 questions, median over pairs of cells)."""
_MIN_CELLS = 2


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClaimAssumptions:
    """Assumed variances of claims about scores, and about scores minus blind scores."""

    score: PowerAssumptions = dataclasses.field(default_factory=PowerAssumptions)
    attributable: PowerAssumptions = dataclasses.field(
        default_factory=lambda: PowerAssumptions(sd_item_difference=ATTRIBUTABLE_SD)
    )
    num_cells: int = 0
    """Number of cells on which the variances were measured; 0 for the defaults."""


def measure_pilot(grid: GridRecord) -> ClaimAssumptions:
    """Measure the variances on open questions in the target language.

    Cells that do not exceed their baselines are left out. Without two other cells, the defaults are
    returned.
    """
    found = {}
    for is_attributable in (False, True):
        measure = Measure(
            kind=ClaimKind.VQA,
            language=grid.target_language,
            column=deciding_column(grid.deciding_metric),
            is_attributable=is_attributable,
        )
        cells = [c for c in Measurements(grid).cells(measure).values() if not shows_nothing(c)]
        if len(cells) < _MIN_CELLS:
            return ClaimAssumptions()
        found[is_attributable] = [cell.to_seed_scores() for cell in align_items(cells)]
    return ClaimAssumptions(
        score=measure_assumptions(found[False]),
        attributable=measure_assumptions(found[True]),
        num_cells=len(found[False]),
    )

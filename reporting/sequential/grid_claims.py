"""The registered claims that a sequential grid can decide, as contrasts of its trainings."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from configuration.axes import AxisValue
from core.errors import ConfigError, DataError, unknown_name
from evaluation.statistics.decisions import explain_few_clusters
from evaluation.statistics.resampling import total_clusters
from evaluation.statistics.sequential.claims import (
    Allowance,
    ContrastClaim,
    mean_difference,
    within_best,
)
from evaluation.statistics.small_samples import clustered_covariance, degrees_of_freedom
from evaluation.statistics.surfaces.axes import CellAxes
from evaluation.statistics.surfaces.cell_surface import Observed
from evaluation.statistics.uncertainty import MIN_CLUSTERS
from reporting.claims.claim_cells import ClaimCells, select_cells
from reporting.claims.claim_texts import fill_text
from reporting.claims.hypotheses_schema import (
    BENCHMARK_KINDS,
    BEST,
    BLIND,
    Comparison,
    Hypotheses,
    Hypothesis,
    Quantity,
    QuestionLanguage,
)
from reporting.claims.measures import Measure, Measurements, measure_of
from reporting.claims.paired_scores import align_items
from reporting.settings import SEED, Setting, configured_axes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlannedCell:
    """One training of a planned grid."""

    cell_id: str
    axes: Mapping[str, AxisValue]
    fields: Mapping[str, AxisValue]

    @property
    def setting(self) -> Setting:
        """Axes of the cell except the seed."""
        return configured_axes(self.axes)

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return int(self.axes.get(SEED) or 0)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GridClaims:
    """Claims that one measure decides, and why the other hypotheses are no part of it."""

    measure: Measure
    claims: tuple[ContrastClaim, ...]
    texts: Mapping[str, str]
    """Name of a claim -> its text."""
    axes: CellAxes
    left_out: Mapping[str, str]
    """Name of a hypothesis that applies to the grid -> why it does not decide what is trained."""


def grid_claims(
    cells: Sequence[PlannedCell],
    hypotheses: Hypotheses,
    common: Mapping[str, AxisValue],
    *,
    target_language: str,
    deciding_metric: str,
    chosen: Sequence[str] = (),
) -> GridClaims:
    """Return the claims of a grid that a response surface can decide.

    A surface describes one measure. It is that of the first hypothesis that applies to the grid and
    concerns a benchmark in the target language; hypotheses about other measures are decided by the
    report, on the cells that were trained.

    Args:
        cells: Every training of the grid.
        hypotheses: The registered hypotheses.
        common: Configuration fields in which all cells agree.
        target_language: Code of the target language.
        deciding_metric: Metric of open questions on which claims are decided.
        chosen: Names of the hypotheses that decide; empty for all that can.

    Raises:
        ConfigError: If no axis of the grid is numeric, a chosen hypothesis is unknown or can't be
            used, or none can.
    """
    axes = _read_axes(cells, hypotheses, chosen)
    builder = _Builder(cells, hypotheses, common)
    measure: Measure | None = None
    claims, texts, left_out = list[ContrastClaim](), dict[str, str](), dict[str, str]()
    for name, hypothesis in hypotheses.hypotheses.items():
        groups = builder.groups(hypothesis)
        if isinstance(groups, str):
            _refuse_chosen(name, chosen, groups)
            continue
        own = measure_of(hypothesis, hypothesis.kinds[0], target_language, deciding_metric)
        if reason := _why_not(hypothesis, own, measure):
            _refuse_chosen(name, chosen, reason)
        elif chosen and name not in chosen:
            reason = "not named by --decide"
        if reason:
            left_out[name] = reason
            continue
        measure = own
        for number, group in enumerate(groups):
            claim_name = name if len(groups) == 1 else f"{name} {number + 1}"
            claims.append(builder.claim(claim_name, hypothesis, group))
            texts[claim_name] = fill_text(hypothesis, group.first, group.second)
            texts[claim_name] += builder.describe(group)
    if measure is None:
        raise ConfigError(
            "--sequential: no registered hypothesis about a benchmark in the target language "
            f"applies to this grid ({_list(left_out)}); add one to its experiment"
        )
    return GridClaims(
        measure=measure, claims=tuple(claims), texts=texts, axes=axes, left_out=left_out
    )


def _read_axes(
    cells: Sequence[PlannedCell], hypotheses: Hypotheses, chosen: Sequence[str]
) -> CellAxes:
    """Check the names of the chosen hypotheses, and return the axes of the cells."""
    for name in chosen:
        if name not in hypotheses.hypotheses:
            raise ConfigError(
                unknown_name("hypothesis", name, hypotheses.hypotheses, fix="See --decide.")
            )
    axes = CellAxes.of([dict(cell.setting) for cell in cells])
    if not axes.curves:
        raise ConfigError(
            "--sequential predicts cells along a numeric axis, and this grid has none with three "
            f"or more values (axes: {', '.join(axes.groups)}); run it without --sequential"
        )
    return axes


def _refuse_chosen(name: str, chosen: Sequence[str], reason: str) -> None:
    if name in chosen:
        raise ConfigError(f"--decide {name}: {reason}; name another hypothesis")


def observe(
    cells: Sequence[PlannedCell], values: Measurements, measure: Measure
) -> Observed | None:
    """Return the means of the trained cells over their common items; None if there are none.

    Args:
        cells: Every training of the grid, in the order of the points.
        values: The values of the grid.
        measure: What is measured.

    Raises:
        DataError: If there are too few images for a test.
    """
    found = values.cells(measure)
    settings = [setting for setting in found if any(c.setting == setting for c in cells)]
    if not settings:
        return None
    same = dict(zip(settings, align_items([found[s] for s in settings]), strict=True))
    points, rows = list[int](), list[np.ndarray]()
    for point, cell in enumerate(cells):
        scores = same.get(cell.setting)
        if scores is not None and cell.seed in scores.seeds:
            points.append(point)
            rows.append(scores.per_training()[scores.seeds.index(cell.seed)])
    images = next(iter(same.values())).images
    totals = total_clusters(np.array(rows), images)
    if totals.num_clusters < MIN_CLUSTERS:
        few = explain_few_clusters(totals.num_clusters)
        raise DataError(f"a sequential grid can't decide claims: {few}; omit --sequential")
    # Cells with equal scores everywhere have no measured variance: half an item is assumed.
    least = (0.5 / totals.sizes_C.sum()) ** 2
    return Observed(
        points=tuple(points),
        means_T=totals.means,
        covariance_TT=clustered_covariance(totals) + least * np.eye(len(points)),
        df=degrees_of_freedom(totals.sizes_C),
    )


class _Builder:
    """Turns hypotheses into contrasts of the trainings of a grid."""

    def __init__(
        self,
        cells: Sequence[PlannedCell],
        hypotheses: Hypotheses,
        common: Mapping[str, AxisValue],
    ) -> None:
        self._num_points = len(cells)
        self._hypotheses, self._common = hypotheses, common
        self._planned = list(dict.fromkeys(cell.setting for cell in cells))
        self._fields = {cell.setting: cell.fields for cell in cells}
        self._points = {
            setting: [at for at, cell in enumerate(cells) if cell.setting == setting]
            for setting in self._planned
        }

    def groups(self, hypothesis: Hypothesis) -> list[ClaimCells] | str:
        """Return the cells of every claim of a hypothesis, or why it does not apply."""
        return select_cells(hypothesis, self._planned, self._common, self._fields)

    def claim(self, name: str, hypothesis: Hypothesis, group: ClaimCells) -> ContrastClaim:
        """Return one claim."""
        firsts = [self._points[first] for first, _ in group.pairs]
        seconds = [self._points[second] for _, second in group.pairs]
        allowance = self._allowance(hypothesis)
        if hypothesis.second == BEST:
            return within_best(name, firsts[0], seconds, self._num_points, allowance)
        seconds = [] if hypothesis.second == BLIND else seconds
        return mean_difference(name, firsts, seconds, self._num_points, allowance)

    def _allowance(self, hypothesis: Hypothesis) -> Allowance:
        if hypothesis.test is Comparison.SUPERIORITY:
            return Allowance()
        is_two_sided = hypothesis.test is Comparison.EQUIVALENCE
        if hypothesis.relative_margin is not None:
            return Allowance(kept=1 - hypothesis.relative_margin, is_two_sided=is_two_sided)
        margin = self._hypotheses.margin_of(hypothesis)
        return Allowance(margin=margin, is_two_sided=is_two_sided)

    def describe(self, group: ClaimCells) -> str:
        """Name what all cells of a claim share and other cells do not, in parentheses."""
        members = [dict(cell) for pair in group.pairs for cell in pair]
        varying = {
            name
            for name in members[0]
            if len({str(dict(cell).get(name)) for cell in self._planned}) > 1
        }
        shared = [
            f"{name}={members[0][name]}"
            for name in members[0]
            if name in varying and len({str(member.get(name)) for member in members}) == 1
        ]
        return f" ({', '.join(shared)})" if shared else ""


def _why_not(hypothesis: Hypothesis, own: Measure, measure: Measure | None) -> str:
    """Return why a hypothesis that applies is no contrast of the surface, or an empty text."""
    if own.kind not in BENCHMARK_KINDS:
        return f"it concerns {own.kind.value}, not a benchmark"
    if hypothesis.language is not QuestionLanguage.TARGET:
        return "it concerns the base language"
    if hypothesis.contrast is not None:
        return "it compares two groups of questions"
    is_score = hypothesis.quantity is Quantity.SCORE
    if is_score and (hypothesis.relative_margin is not None or hypothesis.second == BLIND):
        return "it needs the scores without the image beside those with it"
    if measure is not None and own != measure:
        return f"it is measured by {own.describe()}, the surface describes {measure.describe()}"
    return ""


def _list(left_out: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or "none applies"

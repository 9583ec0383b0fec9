"""Advice on a budget: what more items, text-only data or steps would gain, by a fitted surface.

The surface is fitted to the trained cells of a grid. It is validated first: every trained cell is
withheld in turn and predicted from the others. Questions that the cells can't answer are refused.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from configuration.axes import AxisValue
from core.errors import DataError
from evaluation.statistics.sequential.study import PREDICTION_LEVEL
from evaluation.statistics.surfaces.axes import CellAxes
from evaluation.statistics.surfaces.cell_surface import Observed, SurfacePrior, fit_surface
from reporting.amounts import amounts_of
from reporting.claims.hypotheses_schema import ClaimKind
from reporting.claims.measures import Measure, Measurements, deciding_column
from reporting.records import CellRecord, GridRecord
from reporting.sequential.grid_claims import PlannedCell, observe
from reporting.settings import SAMPLES, SHARE, TEXT_ONLY, configured_axes, is_number

_MIN_CELLS = 5
_ALPHA = 0.05
_STEPS = "num_steps"
_STEP_FACTOR = 1.1
"""Growth of the number of steps that is advised on."""
_CONFIDENCE = 0.9

Axes = Mapping[str, AxisValue]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """Prices in one currency."""

    item: float
    """A translated item, such as a question with its answer about an image."""
    hour: float
    """An hour of the hardware."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """Answer to one question, or the reason why the grid can't answer it."""

    question: str
    gain: float = 0.0
    """Expected gain of the recipe, as a fraction of the score."""
    low: float = 0.0
    high: float = 0.0
    cost: float | None = None
    """Price; None if it is not known."""
    refusal: str = ""

    @property
    def is_clear(self) -> bool:
        """Return whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Predictions of trained cells that were withheld."""

    num_cells: int
    num_inside: int
    """Measurements inside the 90 % interval of a surface that was fitted without them."""
    mean_error: float
    """Mean absolute error of the predictions."""

    @property
    def refusal(self) -> str:
        """Why the surface can't be trusted, or an empty text."""
        p_value = stats.binomtest(
            self.num_inside, self.num_cells, PREDICTION_LEVEL, alternative="less"
        ).pvalue
        if p_value >= _ALPHA:
            return ""
        return (
            f"only {self.num_inside} of {self.num_cells} withheld cells are inside their 90 % "
            f"interval (p = {p_value:.3f}), so the surface does not describe this grid"
        )


class Advisor:
    """Answers questions about a grid from the surface through its trained cells."""

    def __init__(self, grid: GridRecord) -> None:
        """Read the values of the deciding metric in the target language.

        Raises:
            DataError: If fewer than five cells are trained, or no axis is numeric.
        """
        self._grid = grid
        self.measure = Measure(
            kind=ClaimKind.VQA,
            language=grid.target_language,
            column=deciding_column(grid.deciding_metric),
        )
        self._cells = [
            PlannedCell(cell_id=c.cell_id, axes=c.axes, fields=c.fields) for c in grid.cells
        ]
        observed = observe(self._cells, Measurements(grid), self.measure)
        number = 0 if observed is None else len(observed.points)
        if observed is None or number < _MIN_CELLS:
            raise DataError(
                f"grid '{grid.name}' has {number} evaluated cells; advice needs at least "
                f"{_MIN_CELLS}. Train more: python -m experiments.run --exp {grid.experiment}"
            )
        self._observed = observed
        self._axes = [dict(configured_axes(cell.axes)) for cell in self._cells]
        if not CellAxes.of(self._axes).curves:
            raise DataError(
                f"grid '{grid.name}' has no numeric axis with three or more values, along which a "
                "gain could be predicted"
            )

    def validate(self) -> Validation:
        """Predict every trained cell from the others."""
        observed, inside, errors = self._observed, 0, list[float]()
        prior = SurfacePrior.of(CellAxes.of(self._axes))
        for at, point in enumerate(observed.points):
            kept = [row for row in range(len(observed.points)) if row != at]
            others = _select(observed, kept)
            known_TT = others.covariance_TT
            crossed_T = observed.covariance_TT[at, kept]
            found = fit_surface(prior, others)
            # The error of the withheld mean is predicted from those of the others.
            weights_P = np.zeros(prior.num_points)
            weights_P[point] = 1.0
            slopes_T = np.linalg.solve(known_TT, crossed_T)
            weights_P[list(others.points)] -= slopes_T
            shift = float(slopes_T @ others.means_T)
            own = float(observed.covariance_TT[at, at] - slopes_T @ crossed_T)
            low, high = found.interval(weights_P, PREDICTION_LEVEL, extra_variance=max(own, 0.0))
            measured = float(observed.means_T[at])
            inside += low + shift <= measured <= high + shift
            errors.append(abs(float(weights_P @ found.mean) + shift - measured))
        return Validation(
            num_cells=len(errors), num_inside=inside, mean_error=float(np.mean(errors))
        )

    def best_cell(self) -> str:
        """Return the id of the trained cell with the highest score."""
        observed = self._observed
        return self._cells[observed.points[int(observed.means_T.argmax())]].cell_id

    def more_items(self, cell_id: str, number: int, prices: Prices) -> Advice:
        """Return the gain of more translated items at the same number of steps."""
        question = f"{number:,} more translated items"
        axes, cell = self._find(cell_id)
        amounts = amounts_of([cell])
        if SAMPLES in axes:
            changed, reason = {SAMPLES: float(str(axes[SAMPLES])) + number}, ""
        elif amounts is None or not amounts[1].num_different:
            changed, reason = {}, "the amounts of data of this cell are not recorded"
        else:
            added = number / amounts[1].num_different
            changed, reason = {SHARE: float(str(axes[SHARE])) + added}, ""
        return self._advise(question, axes, changed, number * prices.item, reason)

    def text_only(self, cell_id: str) -> Advice:
        """Return the gain of text-only data in the target language."""
        axes, _ = self._find(cell_id)
        values = {str(one.get(TEXT_ONLY)) for one in self._axes}
        reason = "" if len(values) > 1 else "text-only data does not vary in this grid"
        base = {**axes, TEXT_ONLY: False}
        return self._advise("text-only data", base, {TEXT_ONLY: True}, None, reason)

    def more_steps(self, cell_id: str, hours: float | None, prices: Prices) -> Advice:
        """Return the gain of 10 % more steps.

        Args:
            cell_id: The cell.
            hours: Hours of its training; None if they are not known.
            prices: Prices.
        """
        axes, _ = self._find(cell_id)
        name = next((name for name in axes if name.endswith(_STEPS)), "")
        cost = None if hours is None else (_STEP_FACTOR - 1) * hours * prices.hour
        question = f"{100 * (_STEP_FACTOR - 1):.0f} % more steps"
        if not name:
            reason = "no axis of this grid is a number of steps"
            return Advice(question=question, refusal=reason)
        changed = {name: float(str(axes[name])) * _STEP_FACTOR}
        return self._advise(question, axes, changed, cost, "")

    def _find(self, cell_id: str) -> tuple[dict[str, AxisValue], CellRecord]:
        for axes, cell in zip(self._axes, self._grid.cells, strict=True):
            if cell.cell_id == cell_id:
                return axes, cell
        raise DataError(
            f"grid '{self._grid.name}' has no cell '{cell_id}'; cells: "
            + ", ".join(cell.cell_id for cell in self._cells)
        )

    def _advise(
        self,
        question: str,
        base: Axes,
        changed: Mapping[str, AxisValue],
        cost: float | None,
        reason: str,
    ) -> Advice:
        reason = reason or self._outside(changed)
        if reason:
            return Advice(question=question, refusal=reason)
        # The two recipes are further points, which stand for the mean over trainings.
        points: Sequence[Axes] = [*self._axes, base, {**base, **changed}]
        number = len(points)
        is_recipe_P = np.arange(number) >= number - 2
        prior = dataclasses.replace(SurfacePrior.of(CellAxes.of(points)), is_recipe_P=is_recipe_P)
        found = fit_surface(prior, self._observed)
        weights_P = np.zeros(number)
        weights_P[-2:] = -1.0, 1.0
        low, high = found.interval(weights_P, _CONFIDENCE)
        return Advice(
            question=question,
            gain=float(weights_P @ found.mean),
            low=low,
            high=high,
            cost=cost,
        )

    def _outside(self, changed: Mapping[str, AxisValue]) -> str:
        """Return why trained cells do not surround a change, or an empty text."""
        trained = [self._axes[point] for point in self._observed.points]
        for name, value in changed.items():
            known = sorted({float(str(a[name])) for a in trained if is_number(a.get(name))})
            if not is_number(value):
                continue
            if len(known) < 3:  # noqa: PLR2004
                return f"only {len(known)} values of {name} are trained; a curve needs three"
            if not known[0] <= float(str(value)) <= known[-1]:
                return (
                    f"{name} would be {float(str(value)):.4g}, outside of the trained range "
                    f"{known[0]:.4g} to {known[-1]:.4g}"
                )
        return ""


def _select(observed: Observed, rows: Sequence[int]) -> Observed:
    return Observed(
        points=tuple(observed.points[row] for row in rows),
        means_T=observed.means_T[list(rows)],
        covariance_TT=observed.covariance_TT[np.ix_(rows, rows)],
        df=observed.df,
    )


def training_hours(cell: CellRecord) -> float | None:
    """Return the measured hours of a cell's training stages; None if one is not recorded."""
    stages = [cell.stages[kind] for kind in ("align", "instruct") if kind in cell.stages]
    seconds = [stage.wall_s for stage in stages]
    return sum(seconds) / 3600 if seconds and all(seconds) else None

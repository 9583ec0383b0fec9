"""Response surface through the trained cells of a grid, with predictions of recipes.

The surface describes the deciding metric of open questions in the target language. It is validated
before it is believed: every trained cell is withheld in turn and predicted from the others.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from configuration.axes import AxisValue
from core.errors import DataError
from evaluation.statistics.sequential.choice import PREDICTION_LEVEL
from evaluation.statistics.surfaces.axes import CellAxes
from evaluation.statistics.surfaces.cell_surface import (
    Observed,
    SurfacePosterior,
    SurfacePrior,
    fit_surface,
)
from reporting.claims.hypotheses_schema import ClaimKind
from reporting.claims.measures import Measure, Measurements, deciding_column
from reporting.records import CellRecord, GridRecord
from reporting.sequential.grid_claims import PlannedCell, observe
from reporting.settings import SEED, Setting, configured_axes, is_number

_CONFIDENCE = 0.9
"""Level of the intervals of predicted recipes."""
_MIN_CELLS = 5
_MIN_VALUES = 3
_ALPHA = 0.05

Axes = Mapping[str, AxisValue]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """A prediction with its interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WithheldCell:
    """A trained cell, and what the others predict of its measurement."""

    cell_id: str
    """Without the seed if the cell was trained with several."""
    predicted: Predicted
    """With the 90 % prediction interval of a measurement on the same questions."""
    measured: float
    """Mean over the trainings."""

    @property
    def is_inside(self) -> bool:
        """Return whether the measurement is inside the interval."""
        return self.predicted.low <= self.measured <= self.predicted.high


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Predictions of trained cells that were withheld."""

    cells: tuple[WithheldCell, ...]

    @property
    def num_cells(self) -> int:
        """Number of trained cells, each with all its trainings."""
        return len(self.cells)

    @property
    def num_inside(self) -> int:
        """Number of measurements inside the interval of a surface that was fitted without them."""
        return sum(cell.is_inside for cell in self.cells)

    @property
    def mean_error(self) -> float:
        """Mean absolute error of the predictions."""
        return float(np.mean([abs(cell.predicted.value - cell.measured) for cell in self.cells]))

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


class GridSurface:
    """The surface through the trained cells of a grid."""

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
        cells = [PlannedCell(cell_id=c.cell_id, axes=c.axes, fields=c.fields) for c in grid.cells]
        observed = observe(cells, Measurements(grid), self.measure)
        points = () if observed is None else observed.points
        number = len({configured_axes(grid.cells[point].axes) for point in points})
        if observed is None or number < _MIN_CELLS:
            raise DataError(
                f"grid '{grid.name}' has {number} evaluated cells; advice needs at least "
                f"{_MIN_CELLS}. Train more: python -m experiments.run --exp {grid.experiment}"
            )
        self._observed = observed
        self._axes = planned_axes(grid)
        if not CellAxes.of(self._axes).curves:
            raise DataError(
                f"grid '{grid.name}' has no numeric axis with three or more values, along which a "
                "gain could be predicted"
            )

    @property
    def axes(self) -> CellAxes:
        """Axes on which the planned cells differ."""
        return CellAxes.of(self._axes)

    @property
    def trained(self) -> Mapping[int, float]:
        """Index of every trained cell in the grid -> its measurement."""
        return dict(zip(self._observed.points, self._observed.means_T.tolist(), strict=True))

    @property
    def planned(self) -> Sequence[Axes]:
        """Axes of every cell of the grid, except the seed."""
        return self._axes

    @property
    def best_cell(self) -> str:
        """Id of the trained cell with the highest score."""
        at = self._observed.points[int(self._observed.means_T.argmax())]
        return self._grid.cells[at].cell_id

    def find(self, cell_id: str) -> tuple[Axes, CellRecord]:
        """Return the axes and the record of a cell.

        Raises:
            DataError: If the grid has no such cell.
        """
        for axes, cell in zip(self._axes, self._grid.cells, strict=True):
            if cell.cell_id == cell_id:
                return axes, cell
        raise DataError(
            f"grid '{self._grid.name}' has no cell '{cell_id}'; cells: "
            + ", ".join(cell.cell_id for cell in self._grid.cells)
        )

    def validate(self) -> Validation:
        """Predict every trained recipe from the others, as the mean over its trainings."""
        prior, trainings = SurfacePrior.of(self.axes), dict[Setting, list[int]]()
        for row, point in enumerate(self._observed.points):
            recipe = configured_axes(self._grid.cells[point].axes)
            trainings.setdefault(recipe, []).append(row)
        return Validation(cells=tuple(self._withhold(prior, rows) for rows in trainings.values()))

    def predict(self, recipes: Sequence[Axes]) -> list[Predicted]:
        """Predict the mean over trainings of some recipes."""
        found = self._fit(recipes)
        weights_KP = np.eye(found.means_HP.shape[1])[-len(recipes) :]
        return [_combine(found, weights_P) for weights_P in weights_KP]

    def gain(self, base: Axes, other: Axes) -> Predicted:
        """Predict how much better one recipe is than another, as a mean over trainings."""
        found = self._fit([base, other])
        weights_P = np.zeros(found.means_HP.shape[1])
        weights_P[-2:] = -1.0, 1.0
        return _combine(found, weights_P)

    def outside(self, changed: Axes) -> str:
        """Return why trained cells do not surround a change, or an empty text."""
        trained = [self._axes[point] for point in self._observed.points]
        for name, value in changed.items():
            known = sorted({float(str(a[name])) for a in trained if is_number(a.get(name))})
            if not is_number(value):
                continue
            if len(known) < _MIN_VALUES:
                return f"only {len(known)} values of {name} are trained; a curve needs three"
            if not known[0] <= float(str(value)) <= known[-1]:
                return (
                    f"{name} would be {float(str(value)):.4g}, outside of the trained range "
                    f"{known[0]:.4g} to {known[-1]:.4g}"
                )
        return ""

    def _fit(self, recipes: Sequence[Axes]) -> SurfacePosterior:
        """Fit the surface with recipes as further points, the means over their trainings."""
        points = [*self._axes, *recipes]
        is_recipe_P = np.arange(len(points)) >= len(self._axes)
        prior = dataclasses.replace(SurfacePrior.of(CellAxes.of(points)), is_recipe_P=is_recipe_P)
        return fit_surface(prior, self._observed)

    def _withhold(self, prior: SurfacePrior, rows: Sequence[int]) -> WithheldCell:
        """Predict the mean over the trainings of a recipe, without any of them."""
        observed = self._observed
        kept = [row for row in range(len(observed.points)) if row not in rows]
        others = _select(observed, kept)
        known_TT = others.covariance_TT
        crossed_T = observed.covariance_TT[np.ix_(rows, kept)].mean(0)
        found = fit_surface(prior, others)
        # The error of the withheld mean is predicted from those of the others.
        weights_P = np.zeros(prior.num_points)
        points = [observed.points[row] for row in rows]
        weights_P[points] = 1 / len(rows)
        slopes_T = np.linalg.solve(known_TT, crossed_T)
        weights_P[list(others.points)] -= slopes_T
        shift = float(slopes_T @ others.means_T)
        own = float(observed.covariance_TT[np.ix_(rows, rows)].mean() - slopes_T @ crossed_T)
        low, high = found.interval(weights_P, PREDICTION_LEVEL, extra_variance=max(own, 0.0))
        value = float(weights_P @ found.mean) + shift
        cell = self._grid.cells[points[0]]
        seed = f"_s{cell.axes.get(SEED, 0)}" if len(rows) > 1 else ""
        return WithheldCell(
            cell_id=cell.cell_id.replace(seed, "", 1),
            predicted=Predicted(value=value, low=low + shift, high=high + shift),
            measured=float(observed.means_T[list(rows)].mean()),
        )


def planned_axes(grid: GridRecord) -> list[Axes]:
    """Return the axes of every cell of a grid, except the seed."""
    return [dict(configured_axes(cell.axes)) for cell in grid.cells]


def _combine(found: SurfacePosterior, weights_P: np.ndarray) -> Predicted:
    low, high = found.interval(weights_P, _CONFIDENCE)
    return Predicted(value=float(weights_P @ found.mean), low=low, high=high)


def _select(observed: Observed, rows: Sequence[int]) -> Observed:
    return Observed(
        points=tuple(observed.points[row] for row in rows),
        means_T=observed.means_T[list(rows)],
        covariance_TT=observed.covariance_TT[np.ix_(rows, rows)],
        df=observed.df,
    )

"""The plan of a sequential grid: its study, its hours, and what a dry run expects of it."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from configuration.grid_request import GridRequest
from configuration.mixture import expected_manifests
from configuration.trainer import Accelerator
from core.errors import ConfigError
from evaluation.statistics.sequential.forecast import equal_errors, forecast
from evaluation.statistics.sequential.study import SequentialStudy
from experiments.run_steps.grid_description import common_fields
from experiments.run_steps.registering import assumed_variances, planned_claims
from pipeline.graph import Graph
from pipeline.grid_plan import GridPlan
from pipeline.store.store import Store
from planner.estimator import Estimator
from planner.gpus import get_gpu
from reporting.claims.preregistration import (
    combine_hypotheses,
    find_registration,
    load_registered,
)
from reporting.records import grid_folder
from reporting.sequential.grid_claims import GridClaims, PlannedCell, grid_claims

GPU_HOURS, _CORE_HOURS = "GPU-hours", "core-hours"
_HOUR, _TEN = 3600.0, 10
_MAX_FORECASTS, _MIN_FORECASTS, _FORECAST_CELLS = 40, 10, 480
"""Simulated grids of a dry run: as many as have this number of cells, within the limits."""
_CORRELATION = 0.5
"""Assumed correlation of the errors of two cells over the same items."""
_ASSUMED_IMAGES = 373


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SequentialOptions:
    """Options of a sequential grid."""

    decide: tuple[str, ...] = ()
    """Hypotheses that decide what is trained; empty for all that a surface can decide."""
    budget: float = math.inf
    """Hours that may be spent: GPU-hours, or core-hours of a profile without GPUs."""
    price: float = 2.5
    """Price of a GPU-hour."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.budget > 0:
            raise ConfigError(f"--budget {self.budget:g}: expected a positive number of hours")
        if not self.price >= 0:
            raise ConfigError(f"--gpu-hour {self.price:g}: expected a price, 0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequentialPlan:
    """A planned grid as a sequential study."""

    cells: tuple[PlannedCell, ...]
    claims: GridClaims
    study: SequentialStudy
    hours: "StageHours"


class StageHours:
    """Planned hours of stage runs, which cells share."""

    def __init__(self, plan: GridPlan, root: Path, gpu: str) -> None:
        self._graph: Graph = plan.full_graph
        self._ids = [cell.cell_id for cell in plan.cells]
        is_cpu = plan.trainer.accelerator is Accelerator.CPU
        self.unit = _CORE_HOURS if is_cpu else GPU_HOURS
        store, kind = Store(root), get_gpu(gpu)
        expected = {
            path: source
            for cell in plan.cells
            for path, source in expected_manifests(cell.config).items()
        }
        estimator = Estimator(expected, root / "cache")
        self._spans: dict[str, tuple[float, float]] = {}
        self._is_finished: dict[str, bool] = {}
        for address, node in self._graph.nodes.items():
            count = plan.trainer.devices if node.stage.is_distributed and not is_cpu else 1
            estimate = node.estimate(estimator, count=count)
            self._spans[address] = (0.0, 0.0)
            if is_cpu and estimate.cpu_seconds is not None:
                self._spans[address] = (estimate.cpu_seconds / _HOUR,) * 2
            elif not is_cpu and estimate.cost is not None:
                span = estimate.cost.time(kind, estimate.width, count)
                times = (span.shortest_s, span.longest_s)
                self._spans[address] = (times[0] * count / _HOUR, times[1] * count / _HOUR)
            is_known = not self._graph.missing
            folder = store.folder(node.kind, address)
            self._is_finished[address] = is_known and folder.is_done()

    def total(self, points: Iterable[int], *, is_remaining: bool = False) -> tuple[float, float]:
        """Return the shortest and the longest time of some cells, each stage run counted once.

        Args:
            points: Indices of the cells.
            is_remaining: Whether finished stage runs cost nothing.
        """
        found = self._addresses(points)
        if is_remaining:
            found = {address for address in found if not self._is_finished[address]}
        spans = [self._spans[address] for address in found]
        return sum(one[0] for one in spans), sum(one[1] for one in spans)

    def added(self, point: int, trained: Collection[int]) -> float:
        """Return the longest time that a cell adds to trained ones."""
        new = self._addresses([point]) - self._addresses(trained)
        return sum(self._spans[a][1] for a in new if not self._is_finished[a])

    def _addresses(self, points: Iterable[int]) -> set[str]:
        cells = self._graph.cells
        return {address for p in points for address in cells[self._ids[p]].values()}


def plan_sequential(
    request: GridRequest, plan: GridPlan, options: SequentialOptions, gpu: str
) -> SequentialPlan:
    """Return the sequential study of a planned grid.

    Raises:
        ConfigError: If the experiment has no cells or numeric axis, `--only` is given, or no
            hypothesis can decide.
    """
    if not plan.cells:
        raise ConfigError(f"experiment '{request.experiment}' trains no cells; omit --sequential")
    if request.only:
        raise ConfigError("--sequential chooses the cells itself; omit --only")
    folder = grid_folder(request.root, request.experiment, request.profile, request.name)
    has_copy = find_registration(folder) is not None
    hypotheses = load_registered(folder) if has_copy else combine_hypotheses(plan.hypotheses)
    first = plan.cells[0].config
    cells = tuple(
        PlannedCell(cell_id=cell.cell_id, axes=cell.axes, fields=cell.fields) for cell in plan.cells
    )
    claims = grid_claims(
        cells,
        hypotheses,
        common_fields(plan),
        target_language=first.languages.target,
        deciding_metric=first.report.deciding_metric.value,
        chosen=options.decide,
    )
    hours = StageHours(plan, request.root, gpu)
    study = SequentialStudy(
        axes=claims.axes,
        claims=claims.claims,
        costs=hours.added,
    )
    return SequentialPlan(cells=cells, claims=claims, study=study, hours=hours)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedErrors:
    """Errors of the means that are expected before anything is measured."""

    covariance_PP: np.ndarray
    df: float
    num_images: int


def expected_errors(request: GridRequest, plan: GridPlan, found: SequentialPlan) -> ExpectedErrors:
    """Return the errors that the sizes of the benchmark and the assumed variances imply."""
    assumed = assumed_variances(request)
    sizes = [c.size for c in planned_claims(request, plan, assumed) if c.size is not None]
    is_attributable = found.claims.measure.is_attributable
    values = assumed.attributable if is_attributable else assumed.score
    questions = sizes[0].num_questions if sizes else _ASSUMED_IMAGES
    images = max(2, sizes[0].num_images) if sizes else _ASSUMED_IMAGES
    effect = 1 + (questions / images - 1) * values.intra_image_correlation
    # The variance of a difference of two means is 2 v (1 - r), which is v for r = 0.5.
    variance = values.sd_item_difference**2 / questions * effect
    variance /= 2 * (1 - _CORRELATION)
    covariance_PP = equal_errors(len(found.cells), variance, _CORRELATION)
    return ExpectedErrors(covariance_PP=covariance_PP, df=images - 1.0, num_images=images)


def show_sequential(
    console: Console,
    request: GridRequest,
    plan: GridPlan,
    found: SequentialPlan,
    options: SequentialOptions,
) -> None:
    """Print the start set, and the expected cells, hours and cost beside those of the full grid."""
    errors = expected_errors(request, plan, found)
    study, hours = found.study, found.hours
    start = study.start(noise_variance=float(errors.covariance_PP[0, 0]))
    number = max(_MIN_FORECASTS, min(_MAX_FORECASTS, _FORECAST_CELLS // len(found.cells)))
    outcomes = list(forecast(study, errors.covariance_PP, df=errors.df, number=number))
    runs = [outcome.trained for outcome in outcomes]
    every = range(len(found.cells))

    def line(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    line(f"Sequential grid: {len(study.claims)} claims decide what is trained:")
    for name, text in found.claims.texts.items():
        line(f"- {name}: {text}")
    for name, reason in found.claims.left_out.items():
        line(f"- not {name}: {reason}")
    line(f"Trained first: {', '.join(found.cells[point].cell_id for point in start)}.")
    numbers = [len(run) for run in runs]
    low, middle, high = _range(numbers)
    line(
        f"Cells: {middle:.0f} expected ({low:.0f} to {high:.0f}), of {len(found.cells)} in the "
        "full grid."
    )
    spans = [hours.total(run, is_remaining=True) for run in runs]
    full = hours.total(every, is_remaining=True)
    shortest, longest = _range([span[0] for span in spans]), _range([span[1] for span in spans])
    line(
        f"{hours.unit}: {_span(shortest[1], longest[1])} expected "
        f"({_span(shortest[0], longest[2])}), {_span(*full)} for the full grid."
    )
    if hours.unit == GPU_HOURS:
        price = options.price
        line(
            f"Cost at {price:g} a GPU-hour: {_span(price * shortest[1], price * longest[1])} "
            f"expected ({_span(price * shortest[0], price * longest[2])}), "
            f"{_span(price * full[0], price * full[1])} for the full grid."
        )
    line(
        f"Ranges in parentheses contain 90 % of {len(runs)} simulated grids whose surfaces are "
        f"drawn from the assumptions of the fit, on {errors.num_images:,} images, and the shortest "
        "and longest times of the planner; see docs/guides/sequential.md."
    )


def _range(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return float(low), float(middle), float(high)


def _span(low: float, high: float) -> str:
    """Return a range of hours or prices with two digits or more, or one number."""
    texts = [f"{value:,.0f}" if value >= _TEN else f"{value:.2g}" for value in (low, high)]
    return " to ".join(dict.fromkeys(texts))

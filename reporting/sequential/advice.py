"""Advice on a budget: what more items, text-only data or steps would gain, by a fitted surface.

Questions that the trained cells of a grid can't answer are refused.
"""

import dataclasses

from configuration.axes import AxisValue
from reporting.amounts import amounts_of
from reporting.records import CellRecord, GridRecord
from reporting.sequential.grid_surface import Axes, GridSurface
from reporting.settings import SAMPLES, SHARE, TEXT_ONLY

_STEPS = "num_steps"
_STEP_FACTOR = 1.1
"""Growth of the number of steps that is advised on."""


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


class Advisor:
    """Answers questions about a grid from the surface through its trained cells."""

    def __init__(self, grid: GridRecord) -> None:
        """Fit the surface.

        Raises:
            DataError: If fewer than five cells are trained, or no axis is numeric.
        """
        self.surface = GridSurface(grid)

    def more_items(self, cell_id: str, number: int, prices: Prices) -> Advice:
        """Return the gain of more translated items at the same number of steps."""
        question = f"{number:,} more translated items"
        axes, cell = self.surface.find(cell_id)
        amounts = amounts_of([cell])
        changed: dict[str, AxisValue] = {}
        reason = ""
        if SAMPLES in axes:
            changed = {SAMPLES: float(str(axes[SAMPLES])) + number}
        elif amounts is None or not amounts[1].num_different:
            reason = "the amounts of data of this cell are not recorded"
        else:
            added = number / amounts[1].num_different
            changed = {SHARE: float(str(axes[SHARE])) + added}
        return self._advise(question, axes, changed, number * prices.item, reason)

    def text_only(self, cell_id: str) -> Advice:
        """Return the gain of text-only data in the target language."""
        axes, _ = self.surface.find(cell_id)
        values = {str(one.get(TEXT_ONLY)) for one in self.surface.planned}
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
        axes, _ = self.surface.find(cell_id)
        name = next((name for name in axes if name.endswith(_STEPS)), "")
        cost = None if hours is None else (_STEP_FACTOR - 1) * hours * prices.hour
        question = f"{100 * (_STEP_FACTOR - 1):.0f} % more steps"
        if not name:
            reason = "no axis of this grid is a number of steps"
            return Advice(question=question, refusal=reason)
        changed: Axes = {name: float(str(axes[name])) * _STEP_FACTOR}
        return self._advise(question, axes, changed, cost, "")

    def _advise(
        self, question: str, base: Axes, changed: Axes, cost: float | None, reason: str
    ) -> Advice:
        reason = reason or self.surface.outside(changed)
        if reason:
            return Advice(question=question, refusal=reason)
        found = self.surface.gain(base, {**base, **changed})
        return Advice(
            question=question, gain=found.value, low=found.low, high=found.high, cost=cost
        )


def training_hours(cell: CellRecord) -> float | None:
    """Return the measured hours of a cell's training stages; None if one is not recorded."""
    stages = [cell.stages[kind] for kind in ("align", "instruct") if kind in cell.stages]
    seconds = [stage.wall_s for stage in stages]
    return sum(seconds) / 3600 if seconds and all(seconds) else None

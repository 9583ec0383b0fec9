"""Places of the cells of a grid on its axes, as the response surface needs them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from core.errors import DataError

Value: TypeAlias = str | float | int | bool | None

MIN_LEVELS = 3
"""Number of different values from which a numeric axis has a curve; with fewer it has groups."""
_LOG_RATIO = 4.0
"""Ratio of the largest to the smallest value from which a positive axis is logarithmic."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CellAxes:
    """P points, each a training of a cell, on the axes in which the cells differ."""

    curves: Mapping[str, np.ndarray]
    """Numeric axis -> position of every point in 0..1, shape (P,)."""
    zeros: Mapping[str, np.ndarray]
    """Numeric axis -> whether the value is exactly 0, shape (P,); only for axes with a 0."""
    groups: Mapping[str, np.ndarray]
    """Any other axis -> index of the value of every point, shape (P,)."""

    @property
    def num_points(self) -> int:
        """Number of points."""
        every = [*self.curves.values(), *self.groups.values()]
        return len(every[0])

    @property
    def places(self) -> np.ndarray:
        """Number of every point's place on the numeric axes together, shape (P,)."""
        positions_CP = np.array([*self.curves.values(), np.zeros(self.num_points)])
        places_P: np.ndarray = np.unique(positions_CP, axis=1, return_inverse=True)[1]
        return places_P.reshape(-1)

    @classmethod
    def of(cls, points: Sequence[Mapping[str, Value]]) -> "CellAxes":
        """Read the axes of all points.

        Args:
            points: Axis -> value, without the seed. Axes on which all points agree are left out.

        Raises:
            DataError: If there are fewer than two points or no axis varies.
        """
        names = list(dict.fromkeys(name for point in points for name in point))
        varying = [n for n in names if len({_key(point.get(n)) for point in points}) > 1]
        if not varying:
            raise DataError(
                f"{len(points)} points on the axes {', '.join(names) or '(none)'}; expected at "
                "least two points that differ on an axis"
            )
        curves, zeros, groups = {}, {}, {}
        for name in varying:
            values = [point.get(name) for point in points]
            numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
            if len(numbers) == len(values) and len(set(numbers)) >= MIN_LEVELS:
                array = np.array(numbers, dtype=np.float64)
                curves[name] = _positions(array)
                if (array == 0).any():
                    zeros[name] = array == 0
            else:
                known = list(dict.fromkeys(_key(value) for value in values))
                groups[name] = np.array([known.index(_key(value)) for value in values])
        return cls(curves=curves, zeros=zeros, groups=groups)


def _positions(values_P: np.ndarray) -> np.ndarray:
    low, high = values_P.min(), values_P.max()
    if low > 0 and high / low >= _LOG_RATIO:
        values_P, low, high = np.log(values_P), np.log(low), np.log(high)
    positions: np.ndarray = (values_P - low) / (high - low)
    return positions


def _key(value: Value) -> str:
    """Return a text that differs for True, 1 and 1.0 only where the types do."""
    return f"{type(value).__name__} {value}" if isinstance(value, bool | str) else repr(value)

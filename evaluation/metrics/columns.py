"""Columns of a predictions table as arrays, from which metrics are computed."""

import numpy as np
import pyarrow as pa

from evaluation.metrics.accuracy import MeanScore


class PredictionColumns:
    """The columns of a predictions table as arrays."""

    def __init__(self, table: pa.Table) -> None:
        """Convert all columns once."""
        self._arrays = {name: _to_array(table[name]) for name in table.column_names}

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a column; missing numbers are nan."""
        return self._arrays[name]

    def mean_score(self, name: str, mask: np.ndarray) -> float | None:
        """Return the mean of the selected rows in percent, or None if a value is missing."""
        scores = self[name][mask]
        return None if np.isnan(scores).any() else mean_percent(scores)


def has_value(values: np.ndarray) -> np.ndarray:
    """Return which values of a column of objects are not missing."""
    return np.array([value is not None for value in values], dtype=bool)


def mean_percent(scores: np.ndarray) -> float:
    """Return the mean of scores in 0..1 in percent."""
    metric = MeanScore()
    metric.update(scores)
    return float(metric.compute())


def _to_array(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_floating(column.type):
        return np.asarray(column.to_numpy(), dtype=np.float64)
    values = column.to_pylist()
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array

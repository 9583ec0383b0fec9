"""Values of all cells for a hypothesis, read from the stored predictions and retention items."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from benchmarks.report_check import own_statistics as own
from benchmarks.report_check.data import Grid, Setting, Training

LEVEL = 0.05


@dataclass
class Measured:
    """Values of all cells for one claim (a row per training), and gaps to blind and majority."""

    items: own.Items
    values: dict[Setting, np.ndarray]
    image_part: dict[Setting, np.ndarray]
    gaps: dict[Setting, list[np.ndarray]]
    before: dict[Setting, np.ndarray] = field(default_factory=dict)
    """Values that a cell is compared with if not with another cell: before its training."""
    factor: float = 100
    """Factor from a value to a printed number: points, or bits per byte."""
    rounding: float = 0.0501

    def mean(self, setting: Setting) -> np.ndarray:
        """Return the values of a cell, averaged over its trainings."""
        mean: np.ndarray = self.values[setting].mean(axis=0)
        return mean

    def gap(self, pair: tuple[Setting, Setting | None]) -> np.ndarray:
        """Return the first cell minus the second, or minus itself before its training."""
        first, second = pair
        return self.mean(first) - (self.before[first] if second is None else self.mean(second))

    def shows_nothing(self, setting: Setting) -> bool:
        """Return whether a cell does not exceed its blind or its majority baseline."""
        found = [self.items.estimate(gap).p_above() for gap in self.gaps.get(setting, [])]
        return any(p > LEVEL for p in found)


def measure(grid: Grid, known: dict[str, Any], kind: str, language: str) -> Measured | None:
    """Return the values that one kind of a hypothesis is about; None if the grid has none."""
    if kind == "retention":
        return _measure_retention(grid, known["tasks"], language)
    if kind in ("people", "judge"):
        return None
    first = grid.trainings[0]
    mask = first.rows(language, "" if kind == "fidelity" or "contrast" in known else kind)
    mask &= np.array([kind != "fidelity" or v is not None for v in first.columns["is_in_language"]])
    groups = np.zeros(len(mask), dtype=int)
    coefficients: tuple[float, ...] = (1.0,)
    if "contrast" in known:
        inside, outside = (first.population(known[n]) for n in ("population", "contrast"))
        groups, coefficients = np.where(inside, 0, 1), (1.0, -1.0)
        mask &= inside | outside
    items = own.Items(first.columns["image_key"][mask], groups[mask], coefficients)
    values, parts, gaps = {}, {}, {}
    for setting, trainings in grid.settings.items():
        blind, majority, score, own_values = [], [], [], []
        for training in trainings:
            columns = training.columns
            assert (columns["question_id"] == first.columns["question_id"]).all()
            plain = columns[grid.score_column]
            is_open = ~np.isnan(plain)
            scores = np.where(is_open, plain, columns["score"])[mask]
            for prefix, into in (("blind_", blind), ("majority_", majority)):
                column = columns[f"{prefix}{grid.score_column}"]
                into.append(np.where(is_open, column, columns[f"{prefix}score"])[mask])
            score.append(scores)
            if kind == "fidelity":
                own_values.append(columns["is_in_language"][mask].astype(float))
            elif known.get("quantity") == "attributable" or known["second"] == "blind":
                own_values.append(scores - blind[-1])
            else:
                own_values.append(scores)
        values[setting] = np.array(own_values)
        parts[setting] = np.mean(score, axis=0) - np.mean(blind, axis=0)
        if kind != "fidelity" and "contrast" not in known:
            majority_gap = np.mean(score, axis=0) - np.mean(majority, axis=0)
            gaps[setting] = [parts[setting], majority_gap]
    nothing = {setting: np.zeros(len(rows[0])) for setting, rows in values.items()}
    return Measured(items, values, parts, gaps, nothing if known["second"] == "blind" else {})


def _measure_retention(grid: Grid, patterns: list[str], language: str) -> Measured | None:
    wanted = [pattern.format(language=language) for pattern in patterns]

    def read(training: Training, kind: str) -> tuple[np.ndarray, ...] | None:
        if kind not in training.stages:
            return None
        stored = training.read_json(kind, "retention_items.json")
        tasks = [n for n in sorted(stored) if any(fnmatchcase(n, p) for p in wanted)]
        if not tasks:
            return None
        nonlocal is_bits
        is_bits = stored[tasks[0]]["metric"] == "bits_per_byte"
        columns = []
        for number, task in enumerate(tasks):
            sign = -1 if stored[task]["metric"] == "bits_per_byte" else 1
            one = np.array(stored[task]["values"], dtype=float)
            weights = stored[task].get("weights") or np.ones(len(one))
            columns.append((sign * one, np.array(weights, float), np.full(len(one), number)))
        return tuple(np.concatenate(parts) for parts in zip(*columns, strict=True))

    is_bits = False
    first = read(grid.trainings[0], "retention")
    if first is None:
        return None
    number = int(first[2].max()) + 1
    items = own.Items(np.arange(len(first[0])), first[2], (1 / number,) * number, first[1])
    values: dict[Setting, np.ndarray] = {}
    for setting, trainings in grid.settings.items():
        rows = [read(training, "retention") for training in trainings]
        values[setting] = np.array([row[0] for row in rows if row is not None])
    before = {}
    for setting, trainings in grid.settings.items():
        if (row := read(trainings[0], "backbone")) is not None:
            before[setting] = row[0]
    scale = (1, 0.000501) if is_bits else (100, 0.0501)
    return Measured(items, values, {}, {}, before, *scale)

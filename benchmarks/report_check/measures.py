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
    empty: set[tuple[Setting, int]] = field(default_factory=set)
    """Cells that show nothing on the population (0) or the contrast (1)."""

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
    names = _datasets(grid, known)
    columns = _joined(grid.trainings[0], names)
    selected = _select(columns, known, kind, language, names[0])
    if selected is None:
        return None
    mask, groups, coefficients = selected
    items = own.Items(columns["image_key"][mask], groups, coefficients)
    values, parts, found = {}, {}, {}
    for setting, trainings in grid.settings.items():
        rows = [_read_scores(grid, _joined(training, names), mask) for training in trainings]
        assert all((one["asked"] == columns["question_id"][mask]).all() for one in rows)
        score, blind, majority = (
            np.array([one[name] for one in rows]) for name in ("score", "blind", "majority")
        )
        parts[setting] = (score - blind).mean(axis=0)
        values[setting] = score
        if kind == "fidelity":
            values[setting] = np.array([one["in_language"].astype(float) for one in rows])
        elif (subtracted := _subtracted(known)) is not None:
            values[setting] = score - (blind if subtracted == "blind" else majority)
        found[setting] = [parts[setting], (score - majority).mean(axis=0)]
    if "minus" in known:
        values = _subtract(known["minus"], values)
    nothing = {setting: np.zeros(len(rows[0])) for setting, rows in values.items()}
    is_alone = known["second"] in ("blind", "majority")
    measured = Measured(items, values, parts, {}, nothing if is_alone else {})
    if "contrast" in known:
        measured.empty = _find_empty(columns["image_key"][mask], groups, found)
    elif kind != "fidelity":
        measured.gaps = found
    return measured


def _subtracted(known: dict[str, Any]) -> str | None:
    """Return the baseline that is subtracted from the score; None if it is the score itself."""
    if known["second"] == "majority":
        return "majority"
    is_blind = known.get("quantity") == "attributable" or known["second"] == "blind"
    return "blind" if is_blind else None


def _find_empty(
    images: np.ndarray, groups: np.ndarray, gaps: dict[Setting, list[np.ndarray]]
) -> set[tuple[Setting, int]]:
    """Return the cells that do not exceed their baselines on one of two kinds of questions."""
    items = {at: own.plain(images[groups == at]) for at in (0, 1)}
    return {
        (cell, at) for cell, found in gaps.items() for at in items
        if any(items[at].estimate(gap[groups == at]).p_above() > LEVEL for gap in found)
    }  # fmt: skip


def _select(
    columns: dict[str, np.ndarray], known: dict[str, Any], kind: str, language: str, dataset: str
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]] | None:
    """Return a mask of the questions, the part of each selected one, and the weights of parts."""
    default = {"benchmark": dataset, "kinds": [] if kind == "fidelity" else [kind]}
    inside = _population(columns, known.get("population", {}), default)
    asked = np.asarray(columns["language"] == language)
    if kind == "fidelity":
        asked &= np.array([value is not None for value in columns["is_in_language"]])
    selected, coefficients = inside & asked, (1.0,)
    if "contrast" in known:
        outside = _population(columns, known["contrast"], default) & ~inside & asked
        if not outside.any():
            return None
        selected, coefficients = selected | outside, (1.0, -1.0)
    if not (inside & asked).any():
        return None
    return selected, np.where(inside, 0, 1)[selected], coefficients


def _read_scores(
    grid: Grid, columns: dict[str, np.ndarray], mask: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the scores of one training; where the deciding one is missing, the plain one."""
    is_open = ~np.isnan(columns[grid.score_column])
    found = {
        name: np.where(is_open, columns[f"{prefix}{grid.score_column}"], columns[f"{prefix}score"])
        for name, prefix in (("score", ""), ("blind", "blind_"), ("majority", "majority_"))
    }
    found |= {"asked": columns["question_id"], "in_language": columns["is_in_language"]}
    return {name: values[mask] for name, values in found.items()}


def _datasets(grid: Grid, known: dict[str, Any]) -> list[str]:
    """Return the benchmarks of a hypothesis: its own, then that of its population or contrast."""
    names = [known.get("benchmark") or grid.trainings[0].datasets[0]]
    for part in ("population", "contrast"):
        names.append(known.get(part, {}).get("benchmark") or names[0])
    return list(dict.fromkeys(names))


def _joined(training: Training, names: list[str]) -> dict[str, np.ndarray]:
    """Return the columns of some benchmarks, one behind the other."""
    if names == [training.datasets[0]]:
        return training.columns
    found = [training.columns_of(name) for name in names]
    return {column: np.concatenate([one[column] for one in found]) for column in found[0]}


def _population(
    columns: dict[str, np.ndarray], wanted: dict[str, Any], default: dict[str, Any]
) -> np.ndarray:
    """Return a mask of a part of the questions, in all languages; empty lists mean everything."""
    mask = columns["dataset"] == (wanted.get("benchmark") or default["benchmark"])
    kinds = wanted.get("kinds") or default["kinds"]
    for column, values in (("benchmark", kinds), ("answer_type", wanted.get("answer_types")),
                           ("question_type", wanted.get("question_types"))):  # fmt: skip
        if values:
            mask = mask & np.isin(columns[column].astype(str), values)
    return np.asarray(mask, dtype=bool)


def _subtract(
    minus: dict[str, Any], values: dict[Setting, np.ndarray]
) -> dict[Setting, np.ndarray]:
    """Return the values less those of the cells with another value on one axis, seed by seed."""
    ((axis, wanted),) = minus.items()
    found = {}
    for cell, rows in values.items():
        others = [one for one in values if one.axes.get(axis) == wanted
                  and one.without(axis) == cell.without(axis)]  # fmt: skip
        if others and cell.axes.get(axis) != wanted:
            found[cell] = rows - values[others[0]]
    return found


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

"""Items of all cells of a finished grid, and the list of checks."""

import csv
import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import yaml
from scipy.special import ndtri

from benchmarks.report_check.page import Section, read_page

SHARE, SAMPLES, BASE_SAMPLES, TEXT_ONLY = (
    "target_share", "target_samples", "base_samples", "text_only",
)  # fmt: skip
AMOUNTS = (SHARE, SAMPLES, BASE_SAMPLES)
DEVIATE_TOLERANCE = 0.15
"""Largest difference of the normal deviates of p-values of equally defensible tests."""


class Setting(NamedTuple):
    """Axes of a cell except the seed."""

    share: float | None
    """Share of the target language; None in cells that have numbers of images instead."""
    text_only: bool
    others: tuple[tuple[str, Any], ...] = ()
    """Every further axis with its value, in the order of the grid."""

    @classmethod
    def of(cls, axes: dict[str, Any]) -> "Setting":
        """Return the setting of the axes in grid.json."""
        others = {name: value for name, value in axes.items() if name not in
                  ("seed", SHARE, TEXT_ONLY) and value is not None}  # fmt: skip
        share = None if SAMPLES in others else float(axes.get(SHARE) or 0.0)
        return cls(share, bool(axes.get(TEXT_ONLY)), tuple(others.items()))

    @property
    def axes(self) -> dict[str, Any]:
        """Return all axes; the amounts of data are the last ones."""
        others = dict(self.others)
        last = {name: others.pop(name) for name in AMOUNTS if name in others}
        if self.share is not None:
            last[SHARE] = self.share
        return {TEXT_ONLY: self.text_only, **others, **last}

    def without(self, *names: str) -> "dict[str, Any]":
        """Return the axes without some of them."""
        return {name: value for name, value in self.axes.items() if name not in names}


@dataclass
class Checks:
    """Lines of the check."""

    num_equal: int = 0
    differing: list[str] = field(default_factory=list)
    is_quiet: bool = False

    def number(self, name: str, printed: float | None, own: float | None, tolerance: float) -> None:
        """Compare two numbers."""
        if printed is None or own is None:
            self.same(name, printed, own)
            return
        is_equal = math.isfinite(own) and abs(printed - own) <= tolerance
        self._add(name, f"{printed:.6g}", f"{own:.6g} (tolerance {tolerance:.2g})", is_equal)

    def within(self, name: str, printed: float | None, own: list[float], tolerance: float) -> None:
        """Compare a number with the range of those of equally defensible methods."""
        nearest = min(max(printed or 0.0, min(own)), max(own))
        self.number(name, printed, nearest, tolerance)

    def same(self, name: str, printed: object, own: object) -> None:
        """Compare two values that must be equal."""
        self._add(name, str(printed), str(own), printed == own)

    def p_value(self, name: str, printed: float, *own: float, resolution: float = 0.0) -> None:
        """Compare p-values of different tests of one hypothesis, as normal deviates.

        Several own values are those of equally defensible tests; the printed one has to lie within
        their range. Resampling can't give p-values below `resolution`.
        """
        low, high = max(0.0015, resolution), 0.99  # farther out, no conclusion depends on them
        a, *others = (deviate(min(max(p, low), high)) for p in (printed, *own))
        is_equal = min(others) - DEVIATE_TOLERANCE <= a <= max(others) + DEVIATE_TOLERANCE
        is_equal = is_equal or any(abs(printed - p) <= 0.0015 for p in own)
        shown = " .. ".join(f"{p:.4f}" for p in sorted(own))
        self._add(name, f"{printed:.4f}", shown, is_equal)

    def _add(self, name: str, printed: str, own: str, is_equal: object) -> None:
        if is_equal:
            self.num_equal += 1
            if not self.is_quiet:
                print(f"ok       {name}: {printed}")
        else:
            line = f"DIFFERS  {name}: the report has {printed}, recomputed {own}"
            self.differing.append(line)
            print(line)


def name_value(axis: str, value: Any) -> str:
    """Return how the report prints a value of an axis."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if axis == SHARE:
        return f"{100 * float(value):.3g} %"
    if axis in (SAMPLES, BASE_SAMPLES):
        return f"{value:,} images"
    return f"{value:g}" if isinstance(value, float) else str(value)


def name_axis(axis: str, value: Any) -> str:
    """Return how the report names an axis with its value."""
    text = name_value(axis, value)
    if axis == TEXT_ONLY:
        return f"with{'' if value else 'out'} text-only data"
    if axis == "backbone":
        return f"{value} backbone"
    if axis in (SHARE, SAMPLES):
        return text
    return f"{title_axis(axis)} = {text}"


def title_axis(axis: str) -> str:
    """Return how the report names an axis."""
    known = {TEXT_ONLY: "text-only data", "stages": "training stages",
             BASE_SAMPLES: "base-language images"}  # fmt: skip
    return known.get(axis, ".".join(axis.split(".")[-2:]))


def deviate(p: float) -> float:
    """Return the normal deviate below which a share of `p` lies."""
    return float(ndtri(p))


@dataclass(frozen=True)
class Training:
    """One trained cell: its axes, files and items."""

    cell_id: str
    setting: Setting
    seed: int
    stages: dict[str, str]
    store: Path
    datasets: tuple[str, ...]
    """Names of the benchmarks; all checks but those of the use of the image concern the first."""

    def result(self, kind: str) -> Path:
        """Return the result folder of a stage."""
        return self.store / kind / self.stages[kind] / "result"

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """Return the columns of the first benchmark's predictions, sorted by question."""
        return self.columns_of(self.datasets[0])

    def columns_of(self, dataset: str) -> dict[str, np.ndarray]:
        """Return the columns of a benchmark's predictions, sorted by question."""
        path = self.result("evaluate") / "predictions.parquet"
        table = pq.read_table(path, filters=[("dataset", "=", dataset)])
        columns = {}
        for name in table.column_names:
            column = np.empty(len(table), dtype=object)
            for at, value in enumerate(table[name].to_pylist()):
                column[at] = value  # lists of one length stay lists
            columns[name] = column.astype(float) if "score" in name else column
        order = np.lexsort([columns[name].astype(str) for name in
                            ("language", "question_id", "benchmark")])  # fmt: skip
        return {name: values[order] for name, values in columns.items()}

    def rows(self, language: str, kind: str = "", answers: tuple[str, ...] = ()) -> np.ndarray:
        """Return a mask of the questions of a language, kind and answer type."""
        columns = self.columns
        mask = columns["language"] == language
        if kind:
            mask &= columns["benchmark"] == kind
        if answers:
            mask &= np.isin(columns["answer_type"].astype(str), answers)
        return np.asarray(mask, dtype=bool)

    def read_json(self, kind: str, name: str) -> Any:
        """Return a JSON file of a result."""
        return json.loads((self.result(kind) / name).read_text())


@dataclass(frozen=True)
class Grid:
    """A finished grid with its report."""

    root: Path
    folder: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        """Return grid.json."""
        record: dict[str, Any] = json.loads((self.folder / "grid.json").read_text())
        return record

    @cached_property
    def trainings(self) -> list[Training]:
        """Return the cells that were evaluated."""
        cells = [
            Training(
                cell["cell_id"],
                Setting.of(cell["axes"]),
                int(cell["axes"]["seed"]),
                cell["stages"],
                self.root / "store",
                tuple(Path(path).name for path in self.record["benchmarks"]),
            )
            for cell in self.record["cells"]
        ]
        return [one for one in cells if (one.result("evaluate") / "predictions.parquet").is_file()]

    @cached_property
    def settings(self) -> dict[Setting, list[Training]]:
        """Return the trainings of every setting: both in the order of the grid."""
        found: dict[Setting, list[Training]] = {}
        for training in self.trainings:
            found.setdefault(training.setting, []).append(training)
        for trainings in found.values():
            trainings.sort(key=lambda one: one.seed)
        return found

    @cached_property
    def planned(self) -> list[Setting]:
        """Return the settings of all cells, also of those that were not trained."""
        return list(dict.fromkeys(Setting.of(cell["axes"]) for cell in self.record["cells"]))

    @cached_property
    def fields(self) -> dict[Setting, dict[str, Any]]:
        """Return the fields of every setting that named variants set and that are no axes."""
        return {Setting.of(cell["axes"]): cell.get("fields") or {} for cell in self.record["cells"]}

    @cached_property
    def shares(self) -> dict[Setting, float]:
        """Return the share of the target language of every setting."""
        return {Setting.of(cell["axes"]): float(cell.get(SHARE) or cell["axes"].get(SHARE) or 0)
                for cell in self.record["cells"]}  # fmt: skip

    @cached_property
    def varying(self) -> set[str]:
        """Return the axes in which cells differ."""
        values: dict[str, set[Any]] = {}
        for setting in self.planned:
            for name, value in setting.axes.items():
                values.setdefault(name, set()).add(value)
        return {name for name, found in values.items() if len(found) > 1}

    def label(self, axes: dict[str, Any]) -> str:
        """Return how the report names axes: those that vary, and amounts of images or a share."""
        shown = (name for name in axes if name in self.varying or name in (SHARE, SAMPLES))
        return ", ".join(name_axis(name, axes[name]) for name in shown)

    @cached_property
    def hypotheses(self) -> dict[str, Any]:
        """Return the registered hypotheses."""
        known: dict[str, Any] = yaml.safe_load((self.folder / "hypotheses.yaml").read_text())
        return known

    @cached_property
    def hypotheses_hash(self) -> str:
        """Return the SHA-256 of the registered hypotheses."""
        return hashlib.sha256((self.folder / "hypotheses.yaml").read_bytes()).hexdigest()

    @cached_property
    def sections(self) -> dict[str, Section]:
        """Return the sections of the page."""
        return read_page((self.folder / "report" / "report.html").read_text())

    @cached_property
    def table(self) -> list[dict[str, str]]:
        """Return the rows of cells.csv."""
        with (self.folder / "report" / "cells.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    @property
    def languages(self) -> tuple[str, str]:
        """Return the target and the base language."""
        known = self.record["languages"]
        return known["target"], known["base"]

    @property
    def score_column(self) -> str:
        """Return the column of the deciding score of open questions."""
        names = {"vqa": "score", "vqa_lmms": "score_lmms", "vqa_aware": "score_aware"}
        return names[self.record.get("deciding_metric", "vqa")]

"""Values per item of all cells of a grid, for whatever a hypothesis is about."""

import dataclasses
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

import numpy as np

from configuration.report_config import DecidingMetric
from evaluation.benchmarks.predictions import read_predictions
from evaluation.metrics.columns import has_value
from evaluation.retention import read_items
from pipeline.store.records import StageRecord
from reporting.claims.hypotheses_schema import (
    BENCHMARK_KINDS,
    PAIRWISE_KINDS,
    ClaimKind,
    Hypothesis,
    Population,
    Quantity,
)
from reporting.claims.paired_scores import CellScores, stack_seeds
from reporting.claims.units import (
    ACCURACY,
    BITS_PER_BYTE,
    PREFERENCE,
    REPLIES,
    TASK_ACCURACY,
    Unit,
)
from reporting.records import CellRecord, GridRecord
from reporting.settings import SEED, Setting, configured_axes

_COLUMNS = {
    DecidingMetric.OFFICIAL: "score",
    DecidingMetric.LMMS: "score_lmms",
    DecidingMetric.AWARE: "score_aware",
}
_BITS = "bits_per_byte"
_TRAINED = ("pretrain", "align", "instruct")
"""Stages that train on the sources among their data."""
_Columns = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """Measurement for a claim: rows of an evaluation, and one of their columns."""

    kind: ClaimKind
    language: str
    benchmark: str = ""
    """Name of the benchmark; empty for the main one."""
    column: str = "score"
    """Column of the score; rows without it have the column `score`."""
    is_attributable: bool = False
    population: Population = dataclasses.field(default_factory=Population)
    contrast: Population | None = None
    tasks: tuple[str, ...] = ()
    is_bits: bool = False
    """Whether the retention tasks are measured in bits per byte, otherwise in accuracy."""

    @property
    def unit(self) -> Unit:
        """Unit of the values and of the margin."""
        if self.kind is ClaimKind.RETENTION:
            return BITS_PER_BYTE if self.is_bits else TASK_ACCURACY
        if self.kind in PAIRWISE_KINDS:
            return PREFERENCE
        return REPLIES if self.kind is ClaimKind.FIDELITY else ACCURACY

    def selects(self, task: str) -> bool:
        """Return whether a retention task is part of the measure."""
        return any(fnmatchcase(task, pattern) for pattern in self.tasks)

    def kinds(self) -> "tuple[Measure, ...]":
        """Return the measures of the two kinds of questions of a contrast; none without one."""
        if self.contrast is None:
            return ()
        kinds = (self.population, self.contrast)
        return tuple(dataclasses.replace(self, population=k, contrast=None) for k in kinds)

    def describe(self) -> str:
        """Describe the measure in a few words."""
        names = {"score": "", "score_lmms": ", lmms-eval's score", "score_aware": ", aware score"}
        if self.kind is ClaimKind.RETENTION:
            return (
                "bits per byte of text, with the sign reversed (more is better)"
                if self.is_bits
                else "accuracy without images"
            )
        if self.kind is ClaimKind.FIDELITY:
            text = "share of replies in the language"
        else:
            text = f"{self.kind.value}{names.get(self.column, f', {self.column}')}"
        if self.is_attributable:
            text += ", minus the score without the image"
        if self.contrast is not None:
            text += f", {self.population.describe()} minus {self.contrast.describe()}"
        elif selected := self.population.describe():
            text += f" ({selected})"
        return f"{self.benchmark}: {text}" if self.benchmark else text


def deciding_column(deciding_metric: str) -> str:
    """Return the score column of open questions on which claims are decided."""
    return _COLUMNS[DecidingMetric(deciding_metric)]


def measure_of(
    hypothesis: Hypothesis, kind: ClaimKind, language: str, deciding_metric: str
) -> Measure:
    """Return what a hypothesis measures.

    Args:
        hypothesis: The hypothesis.
        kind: One of its kinds.
        language: Language of the questions.
        deciding_metric: Metric of open questions on which claims of the grid are decided.
    """
    plain = deciding_column(deciding_metric) if kind is ClaimKind.VQA else "score"
    return Measure(
        kind=kind,
        language=language,
        benchmark=hypothesis.benchmark,
        column=hypothesis.metric or plain,
        is_attributable=hypothesis.quantity is Quantity.ATTRIBUTABLE,
        population=hypothesis.population,
        contrast=hypothesis.contrast,
        tasks=tuple(task.format(language=language) for task in hypothesis.tasks),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainedOnTexts:
    """Texts on which cells are measured and were trained."""

    tasks: tuple[str, ...]
    """Retention tasks over a training source of a cell."""
    num_cells: int
    """Number of cells that were trained on one of them."""


class Measurements:
    """The values of a grid's cells, read once per measure.

    A cell is identified by its setting and its share: all axes except the seed.
    """

    def __init__(self, grid: GridRecord) -> None:
        self._grid = grid
        self._known: dict[str, dict[Setting, CellScores]] = {}
        self._tables: dict[str, _Columns] = {}

    def cells(self, measure: Measure, *, is_before: bool = False) -> Mapping[Setting, CellScores]:
        """Return the values of all cells that have them.

        Args:
            measure: What is measured.
            is_before: Whether to measure the language model before any training (retention).
        """
        key = f"{measure!r} {is_before}"
        if key not in self._known:
            trainings: dict[Setting, list[tuple[int, CellScores]]] = {}
            for cell in self._grid.cells:
                values = self._read_cell(cell, measure, is_before=is_before)
                if values is not None:
                    setting = configured_axes(cell.axes)
                    seed = int(cell.axes.get(SEED) or 0)
                    trainings.setdefault(setting, []).append((seed, values))
            self._known[key] = {cell: stack_seeds(parts) for cell, parts in trainings.items()}
        return self._known[key]

    def trained_on_texts(self, measure: Measure, cells: Collection[Setting]) -> TrainedOnTexts:
        """Return which texts of a retention measure are training data of some cells.

        Args:
            measure: The measure; others than retention have no texts.
            cells: Settings with their share.
        """
        tasks, found = set[str](), set[Setting]()
        for cell in self._grid.cells:
            setting = configured_axes(cell.axes)
            retention = cell.stages.get("retention")
            if not measure.is_bits or setting not in cells or retention is None:
                continue
            trained = {path for kind in _TRAINED for path in _data_of(cell, kind)}
            texts: Mapping[str, str] = retention.config.get("texts") or {}
            known = [t for t, path in texts.items() if measure.selects(t) and path in trained]
            tasks.update(known)
            found.update([setting] if known else [])
        return TrainedOnTexts(tasks=tuple(sorted(tasks)), num_cells=len(found))

    def trains_language_model(self, cells: Collection[Setting]) -> bool:
        """Return whether a stage of one of these cells trains the language model."""
        stages = [
            cell.stages[kind]
            for cell in self._grid.cells
            if configured_axes(cell.axes) in cells
            for kind in _TRAINED
            if kind in cell.stages
        ]
        policies = [stage.config.get("policy") or {} for stage in stages]
        return not stages or any(policy.get("language_model", True) for policy in policies)

    def _read_cell(
        self, cell: CellRecord, measure: Measure, *, is_before: bool
    ) -> CellScores | None:
        if measure.kind is ClaimKind.RETENTION:
            stage = cell.stages.get("backbone" if is_before else "retention")
            return (
                None if stage is None else _read_retention(stage, measure, is_trained=not is_before)
            )
        if measure.kind in PAIRWISE_KINDS:
            return None  # preferences concern two cells, not one
        stage = cell.evaluation
        if stage is None or not stage.predictions.is_file():
            return None
        if stage.address not in self._tables:
            self._tables[stage.address] = _read_columns(stage)
        return _read_answers(self._tables[stage.address], measure)


def _data_of(cell: CellRecord, kind: str) -> Mapping[str, str]:
    stage = cell.stages.get(kind)
    return {} if stage is None else stage.data


def _read_columns(stage: StageRecord) -> _Columns:
    table = read_predictions(stage.predictions)
    columns = {}
    for name in table.column_names:
        values = table[name].to_pylist()
        is_number = "score" in name
        columns[name] = np.array(values, dtype=np.float64 if is_number else object)
    return columns


def _read_answers(columns: _Columns, measure: Measure) -> CellScores | None:
    """Return the values of the rows that a measure selects; None if there are none."""
    in_population = _select(columns, measure, measure.population)
    selected = in_population
    if measure.contrast is not None:
        in_contrast = _select(columns, measure, measure.contrast) & ~in_population
        if not in_contrast.any():
            return None
        selected = in_population | in_contrast
    if not in_population.any():
        return None
    rows = np.flatnonzero(selected)
    names = [f"{columns['benchmark'][at]} {columns['question_id'][at]}" for at in rows]
    rows = rows[np.argsort(names, kind="stable")]
    questions = tuple(sorted(names))
    images = tuple(str(columns["image_key"][at]) for at in rows)
    if measure.kind is ClaimKind.FIDELITY:
        values = columns["is_in_language"][rows].astype(np.float64)
        return CellScores(questions=questions, images=images, seeds=(0,), scores_KI=values[None])
    scores, blind, majority = (
        _scores(columns, rows, prefix, measure.column) for prefix in ("", "blind_", "majority_")
    )
    groups = None if measure.contrast is None else (~in_population[rows]).astype(int)
    return CellScores(
        questions=questions,
        images=images,
        seeds=(0,),
        scores_KI=scores[None],
        blind_KI=None if np.isnan(blind).any() else blind[None],
        majority_KI=None if np.isnan(majority).any() else majority[None],
        groups_I=groups,
        coefficients=(1.0,) if groups is None else (1.0, -1.0),
        is_attributable=measure.is_attributable,
    )


def _select(columns: _Columns, measure: Measure, population: Population) -> np.ndarray:
    """Return a mask of the rows of a population."""
    dataset = population.benchmark or measure.benchmark or columns["dataset"][0]
    mask = (columns["dataset"] == dataset) & (columns["language"] == measure.language)
    if measure.kind is ClaimKind.FIDELITY:
        mask &= has_value(columns["is_in_language"])
    kinds = population.kinds
    if not kinds and measure.kind in BENCHMARK_KINDS:
        kinds = [measure.kind.value]
    for name, wanted in (
        ("benchmark", kinds),
        ("answer_type", population.answer_types),
        ("question_type", population.question_types),
    ):
        if wanted:
            mask &= np.isin(columns[name].astype(str), wanted)
    return np.asarray(mask, dtype=bool)


def _scores(columns: _Columns, rows: np.ndarray, prefix: str, column: str) -> np.ndarray:
    """Return a score column; rows without it have the one of the plain score."""
    own, plain = columns[f"{prefix}{column}"][rows], columns[f"{prefix}score"][rows]
    scores: np.ndarray = np.where(np.isnan(own), plain, own)
    return scores


def _read_retention(stage: StageRecord, measure: Measure, *, is_trained: bool) -> CellScores | None:
    """Join the items of all tasks of one metric; every task has the same weight."""
    tasks = {
        name: items
        for name, items in read_items(stage.folder / "result").items()
        if measure.selects(name) and (items.metric == _BITS) is measure.is_bits
    }
    if not tasks:
        return None
    names, values, weights, groups = list[str](), list[float](), list[float](), list[int]()
    for number, (task, items) in enumerate(sorted(tasks.items())):
        names += [f"{task} {at:06d}" for at in range(len(items.values))]
        values += [-value for value in items.values] if measure.is_bits else items.values
        weights += items.weights
        groups += [number] * len(items.values)
    return CellScores(
        questions=tuple(names),
        images=tuple(names),
        seeds=(0,),
        scores_KI=np.array([values]),
        groups_I=np.array(groups),
        coefficients=(1 / len(tasks),) * len(tasks),
        weights_I=np.array(weights),
        is_trained=is_trained,
    )

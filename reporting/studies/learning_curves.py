"""Learning curves: loss by language over the steps, and accuracy over the length of a stage.

They are shown in grids with three or more lengths of a training stage. Lengths that continue from a
common trunk (`pipeline.stages.trunks`) are drawn as branches of it, with what they cost.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from core.io.jsonl import read_jsonl
from lightning_modules.source_losses import BY_LANGUAGE
from pipeline.store.records import StageRecord
from reporting.records import CellRecord, GridRecord
from reporting.sections import figures, inline_svg
from reporting.series import MAIN_PANEL, Line, Point, View, lines
from reporting.settings import SHARE, Setting, format_percent
from reporting.studies.study_section import StudyFigure, StudySection, StudyTable

_STAGES = {"align": "stage 1", "instruct": "stage 2"}
_MIN_LENGTHS = 3
_SCHEDULE = ("num_steps", "branch_at", "optim")
"""Fields of a training stage that may differ between its lengths."""
_SIZE = (4.4, 3.1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Curve:
    """Cells that differ in the length of one stage only."""

    kind: str
    key: Setting
    """What the cells have in common, with their share."""
    points: Mapping[str, Sequence[tuple[int, Point]]]
    """Language -> steps and scores, by ascending steps."""

    @property
    def runs(self) -> list[StageRecord]:
        """Stage runs of the first seed of every length, shortest first."""
        some = next(iter(self.points.values()))
        return [point.cells[0].stages[self.kind] for _, point in some]

    @property
    def trunk(self) -> StageRecord | None:
        """The trunk that the lengths share; None if each was trained as a whole."""
        some = next(iter(self.points.values()))
        return some[0][1].cells[0].stages.get(f"{self.kind}_trunk")


def section(grid: GridRecord, view: View) -> StudySection | None:
    """Return the learning curves; None in grids without three lengths of a stage."""
    curves = [curve for kind in _STAGES for curve in _curves(grid, view, kind)]
    if not curves:
        return None
    drawn = []
    for number, curve in enumerate(curves):
        title = f"{_STAGES[curve.kind]}, {_label(view, curve.key)}"
        salt = f"learning-{number}"
        drawn += [
            StudyFigure(
                title=f"Loss of {title}",
                note="Mean loss per token and language between two logged steps. Branches leave "
                "the trunk where the learning rate begins to decrease.",
                svg=_loss_svg(curve, view, salt=f"{salt}-loss"),
            ),
            StudyFigure(
                title=f"VQA accuracy over the length of {title}",
                note="Every point is a training of this length that has ended, with its learning "
                "rate decreased. Bands: 95 % intervals over images.",
                svg=_accuracy_svg(curve, view, salt=f"{salt}-accuracy"),
            ),
        ]
    return StudySection(
        key="learning",
        title="Learning curves",
        note="Loss and accuracy over the length of a training stage; other stages are equal.",
        sentences=tuple(sentence for curve in curves if (sentence := _cost(view, curve))),
        figures=tuple(drawn),
        tables=tuple(_tabulate_lengths(view, curve) for curve in curves),
    )


def _curves(grid: GridRecord, view: View, kind: str) -> list[_Curve]:
    """Return the curves over the length of one stage."""
    cells = [cell for cell in grid.cells if _steps(cell, kind)]
    dropped = _length_axes(cells, kind)
    found: dict[Setting, dict[str, list[tuple[int, Point]]]] = defaultdict(dict)
    for line in lines(grid, view, MAIN_PANEL):
        for point in line.points:
            steps = _steps(point.cells[0], kind)
            if steps:
                key = _key(line, point, dropped)
                found[key].setdefault(line.language, []).append((steps, point))
    curves = []
    for key, points in found.items():
        ordered = {language: sorted(of, key=lambda one: one[0]) for language, of in points.items()}
        lengths = [[steps for steps, _ in of] for of in ordered.values()]
        if all(len({*one}) == len(one) >= _MIN_LENGTHS for one in lengths):
            curves.append(_Curve(kind=kind, key=key, points=ordered))
    return [curve for curve in curves if _differ_in_length_only(curve)]


def _differ_in_length_only(curve: _Curve) -> bool:
    """Return whether the runs of a curve are equal but for their steps and schedule."""
    configs = [
        {name: value for name, value in run.config.items() if name not in _SCHEDULE}
        for run in curve.runs
    ]
    return all(config == configs[0] for config in configs)


def _key(line: Line, point: Point, dropped: set[str]) -> Setting:
    kept = tuple(pair for pair in line.setting if pair[0] not in dropped)
    return (*kept, (SHARE, point.share))


def _steps(cell: CellRecord, kind: str) -> int:
    stage = cell.stages.get(kind)
    return 0 if stage is None else int(stage.config.get("num_steps") or 0)


def _length_axes(cells: Sequence[CellRecord], kind: str) -> set[str]:
    """Return the axes that determine the length of a stage: each value has one, and they differ."""
    axes = {name for cell in cells for name in cell.axes}
    found = set()
    for axis in axes:
        lengths: dict[object, set[int]] = defaultdict(set)
        for cell in cells:
            lengths[cell.axes.get(axis)].add(_steps(cell, kind))
        is_function = all(len(of) == 1 for of in lengths.values())
        if is_function and len(set[int]().union(*lengths.values())) >= _MIN_LENGTHS:
            found.add(axis)
    return found


def _losses(run: StageRecord, language: str) -> list[tuple[int, float]]:
    path, name = run.folder / "metrics.jsonl", f"{BY_LANGUAGE}/{language}"
    if not path.is_file():
        return []
    found = [(line["step"] + 1, line["metrics"].get(name)) for line in read_jsonl(path)]
    return [(step, float(value)) for step, value in found if value is not None]


def _loss_svg(curve: _Curve, view: View, *, salt: str) -> str:
    def draw(axes: Axes) -> None:
        for language in view.languages:
            colour = inline_svg.TARGET if language == view.target else inline_svg.BASE
            if curve.trunk is not None:
                _plot(axes, _losses(curve.trunk, language), colour, width=1.8)
            for run in curve.runs:
                _plot(axes, _losses(run, language), colour, width=0.9)
        axes.set_ylabel("loss per token")
        axes.set_xlabel("optimizer steps")
        axes.set_yscale("log")

    return figures.drawing_svg(draw, _SIZE, salt=salt)


def _plot(axes: Axes, pairs: Sequence[tuple[int, float]], colour: str, *, width: float) -> None:
    if pairs:
        axes.plot(*zip(*pairs, strict=True), color=colour, linewidth=width)


def _accuracy_svg(curve: _Curve, view: View, *, salt: str) -> str:
    def draw(axes: Axes) -> None:
        for language, points in curve.points.items():
            colour = inline_svg.TARGET if language == view.target else inline_svg.BASE
            x = [steps for steps, _ in points]
            axes.plot(x, [p.value for _, p in points], color=colour, marker="o", markersize=4)
            bounded = [(s, p.low, p.high) for s, p in points if None not in (p.low, p.high)]
            if bounded:
                place, low, high = (list(column) for column in zip(*bounded, strict=True))
                axes.fill_between(place, low, high, color=colour, alpha=0.11, linewidth=0)
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(x, [f"{steps:,}" for steps in x])
        axes.set_xlabel("optimizer steps of the stage")
        axes.set_ylabel("VQA accuracy, %")
        axes.set_ylim(0, 103)

    return figures.drawing_svg(draw, _SIZE, salt=salt)


def _label(view: View, key: Setting) -> str:
    share = format_percent(float(str(dict(key)[SHARE])))
    label = view.label(tuple(pair for pair in key if pair[0] != SHARE))
    return ", ".join(filter(None, (label, f"{share} share")))


def _tabulate_lengths(view: View, curve: _Curve) -> StudyTable:
    """Return accuracy, last loss and trained steps of every length."""
    rows = []
    steps_of = [steps for steps, _ in curve.points[view.target]]
    for at, steps in enumerate(steps_of):
        run = curve.runs[at]
        row = [f"{steps:,}", f"{_own_steps(run):,}"]
        for language in view.languages:
            point = curve.points[language][at][1]
            interval = "" if point.low is None else f" [{point.low:.1f}, {point.high:.1f}]"
            row.append(f"{point.value:.1f}{interval}")
        for language in view.languages:
            losses = _losses(run, language)
            row.append(f"{losses[-1][1]:.3f}" if losses else "")
        rows.append(tuple(row))
    columns = [f"{name} {code}" for name in ("accuracy", "last loss") for code in view.languages]
    return StudyTable(
        title=f"Lengths of {_STAGES[curve.kind]}, {_label(view, curve.key)}",
        note="Steps of the stage, and those that were trained besides the trunk; VQA accuracy in "
        "percent with its 95 % interval over images; mean loss per token of the last logged steps.",
        columns=("steps", "own steps", *columns),
        rows=tuple(rows),
    )


def _own_steps(run: StageRecord) -> int:
    return int(run.config["num_steps"]) - int(run.config.get("branch_at") or 0)


def _cost(view: View, curve: _Curve) -> str:
    """State what all lengths cost together, relative to the longest one and to full schedules."""
    if curve.trunk is None:
        return ""
    runs = [curve.trunk, *curve.runs]
    lengths = [int(run.config["num_steps"]) for run in curve.runs]
    trained = sum(_own_steps(run) for run in runs)
    seconds = sum(run.wall_s for run in runs)
    return (
        f"{_STAGES[curve.kind].capitalize()}, {_label(view, curve.key)}: {len(lengths)} lengths "
        f"took {trained:,} optimizer steps, {trained / max(lengths):.2f} times those of the "
        f"longest; a full schedule for each would take {sum(lengths):,}. They were trained in "
        f"{seconds:.0f} s, start-up of {len(runs)} stage runs included."
    )

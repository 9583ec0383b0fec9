"""Response surface of a grid with several numeric axes: its check, effects and curves.

The surface is that of `experiments.advise` and `--sequential`. It is drawn only if the trained
cells, each withheld in turn and predicted from the others, are inside their intervals.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes as Drawing

from configuration.axes import AxisValue
from core.errors import DataError
from evaluation.statistics.surfaces.axes import CellAxes
from reporting.records import GridRecord
from reporting.sections import figures, inline_svg
from reporting.sequential.grid_surface import Axes, GridSurface, Predicted, planned_axes
from reporting.series import View
from reporting.settings import BASE_SAMPLES, SAMPLES, axis_titles, format_axis, format_value
from reporting.studies.study_section import StudyFigure, StudySection, StudyTable

_MIN_AXES = 2
"""Number of numeric axes from which a grid has a surface; one axis has the curves of the report."""
_NUM_PLACES = 13
"""Points of a curve."""
_MAX_LINES = 2
_SIZE = (4.2, 2.9)
_KEY, _TITLE = "surface", "Response surface"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Curve:
    """Recipes along one quantity while everything else stays at the middle."""

    title: str
    label: str
    """Label of the horizontal axis."""
    places: Sequence[float]
    changes: Sequence[Axes]
    """What changes at every place."""

    def ends(self, unit: Callable[[float], str]) -> str:
        """Describe the ends of the curve."""
        return f"{unit(self.places[0])} to {unit(self.places[-1])}"


def section(grid: GridRecord, view: View) -> StudySection | None:
    """Return the section; None in grids with fewer than two numeric axes of three values."""
    planned = planned_axes(grid)
    if len(planned) < _MIN_AXES or all(one == planned[0] for one in planned):
        return None
    if len(CellAxes.of(planned).curves) < _MIN_AXES:
        return None
    note = (
        "Effects of all axes together, by a data mixing law that is fitted to the paired scores of "
        "all trained cells (generalised least squares). Values between trained ones are predicted."
    )
    try:
        surface = GridSurface(grid)
    except DataError as error:
        return StudySection(key=_KEY, title=_TITLE, note=note, sentences=(f"No surface: {error}.",))
    checked = surface.validate()
    check = (
        f"{checked.num_inside} of {checked.num_cells} withheld cells are inside their 90 % "
        f"prediction interval, with a mean error of {100 * checked.mean_error:.1f} points "
        f"({surface.measure.describe()}, questions in {view.target})."
    )
    rows = [
        (one.cell_id, _format(one.predicted), f"{100 * one.measured:.1f}",
         "inside" if one.is_inside else "outside")
        for one in checked.cells
    ]  # fmt: skip
    withheld = StudyTable(
        title="Withheld cells",
        note="Every trained cell, predicted from all others, with its 90 % prediction interval, "
        "and its measurement on the same questions, as the mean over its seeds; percent.",
        columns=("cell", "predicted", "measured", "result"),
        rows=tuple(rows),
    )
    if checked.refusal:
        sentences: tuple[str, ...] = (check, f"No surface is shown: {checked.refusal}.")
        return StudySection(
            key=_KEY, title=_TITLE, note=note, sentences=sentences, tables=(withheld,)
        )
    drawn = _Drawn(surface, view)
    return StudySection(
        key=_KEY,
        title=_TITLE,
        note=note,
        sentences=(check, *drawn.limits()),
        figures=tuple(drawn.figure(number, one) for number, one in enumerate(drawn.curves)),
        tables=(drawn.effects(), withheld),
    )


class _Drawn:
    """Curves through the middle of a surface, with and without what the groups differ in."""

    def __init__(self, surface: GridSurface, view: View) -> None:
        self._surface, self._view = surface, view
        axes, planned = surface.axes, surface.planned
        self._values = {
            name: sorted({float(str(planned[at][name])) for at in surface.trained})
            for name in axes.curves
        }
        self._middle: dict[str, AxisValue] = {
            **planned[next(iter(surface.trained))],
            **{name: values[len(values) // 2] for name, values in self._values.items()},
        }
        groups = [{name: planned[at][name] for name in axes.groups} for at in surface.trained]
        self._groups = [one for at, one in enumerate(groups) if one not in groups[:at]]
        self._titles = axis_titles(list(planned[0]))
        self.curves = [*map(self._along, self._values), *self._amounts()]

    def limits(self) -> list[str]:
        """State at which values curves are drawn, and what the surface can't answer."""
        middle = ", ".join(self._describe(name, self._middle[name]) for name in self._values)
        ranges = ", ".join(
            f"{self._titles[name]} {values[0]:,g} to {values[-1]:,g}"
            for name, values in self._values.items()
        )
        found = [
            f"Curves and effects are those at {middle}, as means over trainings with 90 % "
            "intervals, uncorrected for their number; the claims above are decided on the trained "
            "cells alone.",
            f"It can't answer: values outside of those that are trained ({ranges}); other "
            "questions, languages and models; whether the effect of one axis depends on another, "
            "beyond 2 points, except where withheld cells reveal it.",
        ]
        left_out = len(self._groups) - _MAX_LINES
        if left_out > 0:
            found.append(f"{left_out} further groups of cells are left out of the curves.")
        return found

    def effects(self) -> StudyTable:
        """Return the effect of every axis from its lowest to its highest value."""
        rows = []
        for curve in self.curves:
            for group in self._groups[:_MAX_LINES]:
                base = {**self._middle, **group}
                gain = self._surface.gain(
                    {**base, **curve.changes[0]}, {**base, **curve.changes[-1]}
                )
                ends = curve.ends(lambda place: f"{place:,.4g}")
                rows.append((f"{curve.title}: {ends}", self._label(group), _format(gain)))
        for name, values in {n: self._known(n) for n in self._surface.axes.groups}.items():
            for other in values[1:]:
                base = {**self._middle, **self._groups[0], name: values[0]}
                gain = self._surface.gain(base, {**base, name: other})
                ends = f"{format_value(name, values[0])} to {format_value(name, other)}"
                rows.append((f"{self._titles[name]}: {ends}", "", _format(gain)))
        return StudyTable(
            title="Effects",
            note="Predicted gain in points between two values of an axis, everything else at the "
            "middle, with its 90 % interval.",
            columns=("axis", "cells", "gain"),
            rows=tuple(rows),
        )

    def figure(self, number: int, curve: _Curve) -> StudyFigure:
        """Draw one curve, with the trained cells that lie on it."""
        lines = [
            self._surface.predict([{**self._middle, **group, **one} for one in curve.changes])
            for group in self._groups[:_MAX_LINES]
        ]
        points = [self._on_curve(curve, group) for group in self._groups[:_MAX_LINES]]

        def draw(axes: Drawing) -> None:
            colours = (inline_svg.TARGET, inline_svg.BASE)
            for found, dots, group, colour in zip(
                lines, points, self._groups, colours, strict=False
            ):
                label = self._label(group) or None
                axes.plot(
                    curve.places, [100 * one.value for one in found], color=colour, label=label
                )
                low, high = ([100 * getattr(one, end) for one in found] for end in ("low", "high"))
                axes.fill_between(curve.places, low, high, color=colour, alpha=0.11, linewidth=0)
                axes.plot(*dots, color=colour, marker="o", markersize=4, linestyle="")
            axes.set_xlabel(curve.label)
            axes.set_ylabel("VQA accuracy, %")
            if len(self._groups) > 1:
                axes.legend(frameon=False, fontsize=8)

        return StudyFigure(
            title=f"Accuracy over {curve.title}",
            note="Line and band: predicted mean over trainings with its 90 % interval. Points: "
            "trained cells that differ from the middle in this alone.",
            svg=figures.drawing_svg(draw, _SIZE, salt=f"surface-{number}"),
        )

    def _along(self, name: str) -> _Curve:
        values = self._values[name]
        places = _between(values[0], values[-1])
        title = self._titles[name]
        return _Curve(
            title=title, label=title, places=places, changes=[{name: place} for place in places]
        )

    def _amounts(self) -> list[_Curve]:
        """Return the curves over the share at one total and over the total at one share."""
        if not {SAMPLES, BASE_SAMPLES} <= self._values.keys():
            return []
        target, base = self._values[SAMPLES], self._values[BASE_SAMPLES]
        total = float(str(self._middle[SAMPLES])) + float(str(self._middle[BASE_SAMPLES]))
        shares = _between(
            max(target[0], total - base[-1]) / total, min(target[-1], total - base[0]) / total
        )
        halves = _between(max(target[0], base[0]), min(target[-1], base[-1]))
        return [
            _Curve(
                title=f"share of the target language among {total:,.0f} images",
                label="share of the target language",
                places=shares,
                changes=[{SAMPLES: s * total, BASE_SAMPLES: (1 - s) * total} for s in shares],
            ),
            _Curve(
                title="images in total, half of them in the target language",
                label="images in total",
                places=[2 * half for half in halves],
                changes=[{SAMPLES: half, BASE_SAMPLES: half} for half in halves],
            ),
        ]

    def _on_curve(
        self, curve: _Curve, group: Mapping[str, AxisValue]
    ) -> tuple[list[float], list[float]]:
        """Return places and scores of the trained cells of a group that lie on a curve."""
        (name, *others), recipe = list(curve.changes[0]), {**self._middle, **group}
        found = list[tuple[float, float]]()
        for at, measured in self._surface.trained.items():
            cell = self._surface.planned[at]
            if others or any(cell[key] != value for key, value in recipe.items() if key != name):
                continue
            found.append((float(str(cell[name])), 100 * measured))
        return [x for x, _ in found], [y for _, y in found]

    def _known(self, name: str) -> list[AxisValue]:
        return list(dict.fromkeys(group[name] for group in self._groups))

    def _label(self, group: Mapping[str, AxisValue]) -> str:
        return ", ".join(self._describe(name, value) for name, value in group.items())

    def _describe(self, name: str, value: AxisValue) -> str:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return format_axis(name, value, self._titles[name])


def _between(low: float, high: float) -> list[float]:
    """Return the places of a curve, equally far apart; its ends are exact."""
    step = (high - low) / (_NUM_PLACES - 1)
    return [low, *(low + step * number for number in range(1, _NUM_PLACES - 1)), high]


def _format(one: Predicted) -> str:
    return f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"

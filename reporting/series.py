"""The numbers a report shows: scores arranged as lines over the share, mean over seeds.

Everything here is plain data, so that figures, tables and sentences are made from the same values.
Scores are in percent.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from configuration.axes import AxisValue
from pipeline.store.records import Score
from reporting.records import CellRecord, GridRecord

SHARE = "target_share"
SEED = "seed"
ENOUGH_SHARE = 0.2
"""PAPER: the share that is said to suffice."""
NBSP = "\N{NO-BREAK SPACE}"
_MIN_SHARES_FOR_A_CURVE = 3

Setting = tuple[tuple[str, AxisValue], ...]
"""The axes of a cell besides share and seed, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One diagram: a metric with its language left open."""

    key: str
    title: str
    metric: str
    """`{language}` stands for the language."""
    note: str

    def name(self, language: str) -> str:
        """The metric's name in a language."""
        return self.metric.format(language=language)


PANELS = (
    Panel(key="vqa", title="VQA accuracy", metric="vqa/{language}/accuracy",
          note="All open questions about images; the reply must match what people answered."),
    Panel(key="other", title="Other questions", metric="vqa/{language}/other",
          note="What is it, which colour, where: the hardest to guess."),
    Panel(key="yes_no", title="Yes or no", metric="vqa/{language}/yes_no",
          note="Two answers to choose from: guessing goes far."),
    Panel(key="number", title="Numbers", metric="vqa/{language}/number",
          note="How many; digits read the same in both languages."),
    Panel(key="mc", title="Multiple choice", metric="mc/{language}/accuracy",
          note="Pick one of the offered answers."),
    Panel(key="capqa", title="Caption check", metric="capqa/{language}/accuracy",
          note="Is this statement about the image true?"),
)  # fmt: skip
MAIN = PANELS[0]
FIDELITY = Panel(
    key="fidelity", title="Replies in the asked language", metric="fidelity/{language}",
    note="Share of replies, right or wrong, in the language of the question.",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One setting at one share in one language: the mean over its seeds."""

    share: float
    value: float
    low: float | None
    high: float | None
    """95 % for the questions asked; with several seeds the mean of their intervals."""
    seeds: tuple[float, ...]
    majority: float | None
    blind: float | None
    chance: float | None
    n: int | None
    num_images: int | None

    @property
    def seed_spread(self) -> float | None:
        """Standard deviation over seeds."""
        return stdev(self.seeds) if len(self.seeds) > 1 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """All shares of one setting in one language."""

    language: str
    setting: Setting
    points: tuple[Point, ...]

    def at(self, share: float) -> Point | None:
        """The point at a share."""
        return next((p for p in self.points if math.isclose(p.share, share)), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """How a grid is to be shown."""

    base: str
    target: str
    settings: tuple[Setting, ...]
    shares: tuple[float, ...]
    seeds: tuple[AxisValue, ...]
    is_curve: bool

    @property
    def languages(self) -> tuple[str, str]:
        """Target first: it is what the study is about."""
        return (self.target, self.base)

    def label(self, setting: Setting) -> str:
        """What tells a setting from the others, in words."""
        varying = [(name, value) for name, value in setting if self._varies(name)]
        return ", ".join(_words(name, value) for name, value in varying) or "all cells"

    def _varies(self, name: str) -> bool:
        return len({dict(setting).get(name) for setting in self.settings}) > 1


def view_of(grid: GridRecord) -> View:
    """Find out what varies in a grid."""
    settings = tuple(dict.fromkeys(setting_of(cell) for cell in grid.cells))
    shares = tuple(sorted({share_of(cell) for cell in grid.cells}))
    return View(
        base=grid.base_language,
        target=grid.target_language,
        settings=settings,
        shares=shares,
        seeds=tuple(dict.fromkeys(cell.axes.get(SEED, 0) for cell in grid.cells)),
        is_curve=len(shares) >= _MIN_SHARES_FOR_A_CURVE,
    )


def setting_of(cell: CellRecord) -> Setting:
    """A cell's axes besides share and seed."""
    return tuple((name, value) for name, value in cell.axes.items() if name not in (SHARE, SEED))


def share_of(cell: CellRecord) -> float:
    """A cell's share of the target language."""
    return float(cell.axes.get(SHARE) or 0.0)


def lines(grid: GridRecord, view: View, panel: Panel) -> list[Line]:
    """The lines of a panel, target language first; settings without a result are left out."""
    found = []
    for language in view.languages:
        scores: dict[Setting, dict[float, list[Score]]] = defaultdict(lambda: defaultdict(list))
        for cell in grid.cells:
            score = cell.evaluation and cell.evaluation.scores.get(panel.name(language))
            if score:
                scores[setting_of(cell)][share_of(cell)].append(score)
        for setting in view.settings:
            by_share = sorted(scores[setting].items())
            points = tuple(_point(share, values) for share, values in by_share)
            if points:
                found.append(Line(language=language, setting=setting, points=points))
    return found


def best_point(found: Sequence[Line], language: str) -> tuple[Setting, Point] | None:
    """The highest point of a language."""
    points = [(line.setting, p) for line in found if line.language == language for p in line.points]
    return max(points, key=lambda pair: pair[1].value, default=None)


def with_axis(setting: Setting, name: str, *, value: AxisValue) -> Setting:
    """The same setting with one axis changed."""
    return tuple((key, value if key == name else old) for key, old in setting)


def percent(share: float) -> str:
    """A share as text."""
    return f"{100 * share:g}{NBSP}%"


def _point(share: float, scores: Sequence[Score]) -> Point:
    values = tuple(score.value for score in scores)
    # Rounding can leave an end of an interval on the wrong side of its value.
    lows = [None if s.ci_low is None else min(s.ci_low, s.value) for s in scores]
    highs = [None if s.ci_high is None else max(s.ci_high, s.value) for s in scores]
    return Point(
        share=share,
        value=fmean(values),
        low=_mean_or_none(lows),
        high=_mean_or_none(highs),
        seeds=values,
        majority=_mean_or_none([score.majority for score in scores]),
        blind=_mean_or_none([score.blind for score in scores]),
        chance=_mean_or_none([score.chance for score in scores]),
        n=scores[0].n,
        num_images=scores[0].num_images,
    )


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


_STAGES: Mapping[str, str] = {
    "both": "both stages", "align_only": "alignment only", "instruct_only": "instruction only",
}  # fmt: skip


def _words(name: str, value: AxisValue) -> str:
    if name == "text_only":
        return "with text-only data" if value else "without text-only data"
    if name == "backbone":
        return f"{value} backbone"
    return _STAGES.get(str(value), f"{name} {value}")

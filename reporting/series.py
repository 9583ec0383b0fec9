"""Scores of a grid arranged as lines over the share of the target language, averaged over seeds.

Figures, tables and sentences are all made from these plain values. Scores are in percent.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from configuration.axes import AxisValue
from pipeline.store.records import Score
from reporting.records import GridRecord
from reporting.settings import (
    SEED,
    Setting,
    axis_titles,
    format_axis,
    setting_of,
    share_of,
    varying_axes,
)

REFERENCE_SHARE = 0.2
"""PAPER: the share that is claimed to suffice."""
_MIN_SHARES_FOR_A_CURVE = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Definition of one diagram: a metric, for both languages."""

    key: str
    title: str
    metric: str
    """Name of the metric with `{language}` in place of the language."""
    note: str

    def metric_name(self, language: str) -> str:
        """Return the name of the metric in a language."""
        return self.metric.format(language=language)


PANELS = (
    Panel(key="vqa", title="VQA accuracy", metric="vqa/{language}/accuracy",
          note="All open questions about images; a reply must match the annotators' answers."),
    Panel(key="other", title="Other questions", metric="vqa/{language}/other",
          note="All other open questions, which are the hardest to guess."),
    Panel(key="yes_no", title="Yes/no questions", metric="vqa/{language}/yes_no",
          note="Questions with two possible answers, for which guessing is often correct."),
    Panel(key="number", title="Number questions", metric="vqa/{language}/number",
          note="Counting questions."),
    Panel(key="mc", title="Multiple choice", metric="mc/{language}/accuracy",
          note="Questions with a list of candidate answers, one of which is correct."),
    Panel(key="capqa", title="Caption verification", metric="capqa/{language}/accuracy",
          note="Yes/no questions on whether a description matches the image."),
)  # fmt: skip
MAIN_PANEL = PANELS[0]
FIDELITY_PANEL = Panel(
    key="fidelity", title="Replies in the language of the question", metric="fidelity/{language}",
    note="Share of replies, correct or not, that are in the language of the question.",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Score of one setting at one share in one language: the mean over its seeds."""

    share: float
    value: float
    low: float | None
    high: float | None
    """Ends of the 95 % interval over images; with several seeds the mean of their intervals."""
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
    """Points of one setting in one language, by ascending share."""

    language: str
    setting: Setting
    points: tuple[Point, ...]

    def at(self, share: float) -> Point | None:
        """Return the point at a share."""
        return next((p for p in self.points if math.isclose(p.share, share)), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """Languages, settings, shares and seeds of a grid, which determine how it is presented."""

    base: str
    target: str
    settings: tuple[Setting, ...]
    shares: tuple[float, ...]
    seeds: tuple[AxisValue, ...]
    is_curve: bool
    """Whether scores are drawn over the share; otherwise as bars."""

    @property
    def languages(self) -> tuple[str, str]:
        """The target language, which is the subject of the study, and the base language."""
        return (self.target, self.base)

    @property
    def varying(self) -> dict[str, tuple[AxisValue, ...]]:
        """Axes in which the settings differ, with their values."""
        return varying_axes(self.settings)

    @property
    def titles(self) -> dict[str, str]:
        """Titles of the axes."""
        return axis_titles([name for setting in self.settings[:1] for name, _ in setting])

    def label(self, setting: Setting, *, without: Sequence[str] = ()) -> str:
        """Describe a setting by the axes that vary; empty if none varies.

        Args:
            setting: The setting, or some of its axes.
            without: Axes that the description leaves out.
        """
        shown = self.varying.keys() - set(without)
        titles = self.titles
        pairs = [(name, value) for name, value in setting if name in shown]
        return ", ".join(format_axis(name, value, titles[name]) for name, value in pairs)


def view_of(grid: GridRecord) -> View:
    """Determine which axes vary in a grid."""
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


def lines(grid: GridRecord, view: View, panel: Panel) -> list[Line]:
    """Return the lines of a panel, target language first; settings without results are skipped."""
    found = []
    for language in view.languages:
        scores: dict[Setting, dict[float, list[Score]]] = defaultdict(lambda: defaultdict(list))
        for cell in grid.cells:
            score = cell.evaluation and cell.evaluation.scores.get(panel.metric_name(language))
            if score:
                scores[setting_of(cell)][share_of(cell)].append(score)
        for setting in view.settings:
            by_share = sorted(scores[setting].items())
            points = tuple(_average_seeds(share, values) for share, values in by_share)
            if points:
                found.append(Line(language=language, setting=setting, points=points))
    return found


def best_point(found: Sequence[Line], language: str) -> tuple[Setting, Point] | None:
    """Return the highest point of a language and its setting."""
    points = [(line.setting, p) for line in found if line.language == language for p in line.points]
    return max(points, key=lambda pair: pair[1].value, default=None)


def _average_seeds(share: float, scores: Sequence[Score]) -> Point:
    values = tuple(score.value for score in scores)
    # Rounding may put an end of an interval on the wrong side of its value.
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

"""Scores of a grid arranged as lines over the share of the target language, averaged over seeds.

Figures, tables and sentences are all made from these plain values. Scores are in percent.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from configuration.axes import AxisValue
from evaluation.statistics.decisions import ALPHA
from pipeline.store.records import Score
from reporting.item_scores import ItemQuery, exceeds_baselines, seed_averaged_interval
from reporting.records import CellRecord, GridRecord
from reporting.settings import (
    BASE_SAMPLES,
    SEED,
    SHARE,
    Setting,
    axis_titles,
    format_axis,
    is_number,
    setting_of,
    share_of,
    varying_axes,
)

REFERENCE_SHARE = 0.2
"""PAPER: the share that is claimed to suffice."""
_MIN_POINTS = 3
_PERCENT = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Definition of one diagram: a metric, for both languages."""

    key: str
    title: str
    metric: str
    """Name of the metric with `{language}` in place of the language."""
    note: str
    query: ItemQuery | None = None
    """Scores per question behind the metric; None if it is not their mean."""
    unparsed: str = ""
    """Name of the metric of unparsed replies (closed questions only)."""
    refusals: str = ""
    """Name of the metric of refusals."""

    def metric_name(self, language: str) -> str:
        """Return the name of the metric in a language."""
        return self.metric.format(language=language)


PANELS = (
    Panel(key="vqa", title="VQA accuracy", metric="vqa/{language}/accuracy",
          query=ItemQuery(kind="vqa", column="score"), refusals="vqa/{language}/refusals",
          note="All open questions about images; a reply must match the annotators' answers."),
    Panel(key="other", title="Other questions", metric="vqa/{language}/other",
          query=ItemQuery(kind="vqa", column="score", answer_type="other"),
          note="All other open questions, which are the hardest to guess."),
    Panel(key="yes_no", title="Yes/no questions", metric="vqa/{language}/yes_no",
          query=ItemQuery(kind="vqa", column="score", answer_type="yes/no"),
          note="Questions with two possible answers, for which guessing is often correct."),
    Panel(key="number", title="Number questions", metric="vqa/{language}/number",
          query=ItemQuery(kind="vqa", column="score", answer_type="number"),
          note="Counting questions."),
    Panel(key="mc", title="Multiple choice", metric="mc/{language}/accuracy",
          query=ItemQuery(kind="mc", column="score"),
          unparsed="mc/{language}/unparsed", refusals="mc/{language}/refusals",
          note="Questions with a list of candidate answers, one of which is correct."),
    Panel(key="capqa", title="Caption verification", metric="capqa/{language}/accuracy",
          query=ItemQuery(kind="capqa", column="score"),
          unparsed="capqa/{language}/unparsed", refusals="capqa/{language}/refusals",
          note="Yes/no questions on whether a description matches the image."),
)  # fmt: skip
MAIN_PANEL = PANELS[0]
FIDELITY_PANEL = Panel(
    key="fidelity", title="Replies in the language of the question", metric="fidelity/{language}",
    query=ItemQuery(kind="", column="is_in_language"),
    note="Share of replies, correct or not, that are in the language of the question.",
)  # fmt: skip
TRUNCATED_PANEL = Panel(
    key="truncated", title="Truncated replies", metric="truncated/{language}",
    note="Share of replies that reached the token limit before the model ended its turn.",
)  # fmt: skip
LIKELIHOOD_PANELS = tuple(
    Panel(key=f"{kind}_likelihood", title=f"{title}, likelihood",
          metric=kind + "/{language}/likelihood",
          query=ItemQuery(kind=kind, column="likeliest_score"),
          note="Share of questions whose right option has the highest log-likelihood.")
    for kind, title in (("mc", "Multiple choice"), ("capqa", "Caption verification"))
)  # fmt: skip
"""Scores of closed questions by token probabilities, if the evaluation measured them."""
_OF_WORDINGS = {
    "lowest": "Score with the wording that gives the lowest one.",
    "highest": "Score with the wording that gives the highest one.",
    "mean": "Mean score of all wordings of the questions.",
    "difference": "Highest minus lowest score, with an interval for the largest of all pairs.",
}
VQA_PANELS = (
    Panel(key="vqa_official", title="official", metric="vqa/{language}/accuracy",
          query=ItemQuery(kind="vqa", column="score"),
          note="The official program, which compares unanimous answers as raw text."),
    Panel(key="vqa_lmms", title="lmms-eval", metric="vqa_lmms/{language}/accuracy",
          query=ItemQuery(kind="vqa", column="score_lmms"),
          note="English normalisation of every reply and answer, as in lmms-eval."),
    Panel(key="vqa_aware", title="language-aware", metric="vqa_aware/{language}/accuracy",
          query=ItemQuery(kind="vqa", column="score_aware"),
          note="Every reply and answer is normalised by the rules of its language."),
)  # fmt: skip
"""The three VQA scores, which the report shows side by side."""
COLLAPSE_PANELS = (
    Panel(key="vqa_fidelity", title="replies in the language", metric="vqa/{language}/fidelity",
          query=ItemQuery(kind="vqa", column="is_in_language"),
          note="Share of the replies to open questions that are in the language of the question."),
    Panel(key="accuracy_lmms", title="accuracy", metric="vqa_lmms/{language}/accuracy",
          query=ItemQuery(kind="vqa", column="score_lmms"),
          note="Accuracy over all replies."),
    Panel(key="accuracy_in_language", title="among replies in the language",
          metric="vqa/{language}/accuracy_in_language",
          note="Accuracy among the replies that are in the language of the question."),
    Panel(key="accuracy_any_language", title="in any language",
          metric="vqa/{language}/accuracy_any_language",
          query=ItemQuery(kind="vqa", column="score_any_language"),
          note="Accuracy if the answer to the same question in the other language counts, too."),
)  # fmt: skip
"""What separates a lost reply language from lost knowledge; scores of lmms-eval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Score of one setting at one share in one language: the mean over its seeds."""

    share: float
    value: float
    low: float | None
    high: float | None
    """Ends of the 95 % interval over images. With several seeds it is the interval of the scores
    per question averaged over these trained models; it does not cover other seeds."""
    seeds: tuple[float, ...]
    majority: float | None
    blind: float | None
    chance: float | None
    n: int | None
    num_images: int | None
    unparsed: float | None
    """Percentage of replies that could not be parsed and count as wrong."""
    refusals: float | None
    """Percentage of replies that decline to answer."""
    exceeds_baselines: bool | None
    """Whether the mean over seeds exceeds both baselines significantly; None if one is missing."""
    cells: tuple[CellRecord, ...]
    """The cells that are averaged, one per seed."""

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
    def x_axis(self) -> str:
        """Axis over which figures draw lines, the share or another number; empty for bars."""
        if self.is_curve:
            return SHARE
        numeric = {
            name: len(values)
            for name, values in self.varying.items()
            if name != BASE_SAMPLES and len(values) >= _MIN_POINTS and all(map(is_number, values))
        }
        name = max(numeric, key=lambda axis: numeric[axis], default="")
        others = {tuple(pair for pair in setting if pair[0] != name) for setting in self.settings}
        return name if 2 * len(others) <= len(self.settings) else ""

    @property
    def titles(self) -> dict[str, str]:
        """Titles of the axes."""
        names = dict.fromkeys(name for setting in self.settings for name, _ in setting)
        return axis_titles(list(names))

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
    places = {(setting_of(cell), share_of(cell)) for cell in grid.cells}
    return make_view(
        base=grid.base_language,
        target=grid.target_language,
        settings=tuple(dict.fromkeys(setting_of(cell) for cell in grid.cells)),
        shares=tuple(sorted({share_of(cell) for cell in grid.cells})),
        seeds=tuple(dict.fromkeys(cell.axes.get(SEED, 0) for cell in grid.cells)),
        num_places=len(places),
    )


def make_view(
    *,
    base: str,
    target: str,
    settings: tuple[Setting, ...],
    shares: tuple[float, ...],
    seeds: tuple[AxisValue, ...],
    num_places: int,
) -> View:
    """Return the view of a grid; it draws curves if settings have several shares on average."""
    return View(
        base=base,
        target=target,
        settings=settings,
        shares=shares,
        seeds=seeds,
        is_curve=len(shares) >= _MIN_POINTS and num_places >= 2 * len(settings),
    )


def lines(grid: GridRecord, view: View, panel: Panel) -> list[Line]:
    """Return the lines of a panel, target language first; settings without results are skipped."""
    found = []
    for language in view.languages:
        cells: dict[Setting, dict[float, list[CellRecord]]] = defaultdict(lambda: defaultdict(list))
        for cell in grid.cells:
            if cell.evaluation and panel.metric_name(language) in cell.evaluation.scores:
                cells[setting_of(cell)][share_of(cell)].append(cell)
        for setting in view.settings:
            by_share = sorted(cells[setting].items())
            points = tuple(_average_seeds(share, same, panel, language) for share, same in by_share)
            if points:
                found.append(Line(language=language, setting=setting, points=points))
    return found


def main_panel(grid: GridRecord) -> Panel:
    """Return the panel of the VQA score that decides the claims of a grid."""
    prefix = f"{grid.deciding_metric}/"
    return next((panel for panel in VQA_PANELS if panel.metric.startswith(prefix)), MAIN_PANEL)


def wording_panels(grid: GridRecord) -> tuple[Panel, ...]:
    """Return the panels of the scores of several wordings, the deciding VQA score first."""
    kinds = ((str(grid.deciding_metric), "VQA"), ("mc", "Multiple choice"),
             ("capqa", "Caption verification"), ("da", "Direct answers"))  # fmt: skip
    return tuple(
        Panel(key=f"{kind}_wordings_{name}", title=f"{title}, {name}",
              metric=kind + "/{language}/wordings_" + name, note=note)
        for kind, title in kinds for name, note in _OF_WORDINGS.items()
    )  # fmt: skip


def best_point(found: Sequence[Line], language: str) -> tuple[Setting, Point] | None:
    """Return the highest point of a language and its setting."""
    points = [(line.setting, p) for line in found if line.language == language for p in line.points]
    return max(points, key=lambda pair: pair[1].value, default=None)


def _average_seeds(share: float, cells: Sequence[CellRecord], panel: Panel, language: str) -> Point:
    scores = _scores_of(cells, panel.metric_name(language))
    values = tuple(score.value for score in scores)
    low, high = scores[0].ci_low, scores[0].ci_high
    if len(scores) > 1:
        query = panel.query
        interval = None if query is None else seed_averaged_interval(cells, query, language)
        low = None if interval is None or interval.low is None else _PERCENT * interval.low
        high = None if interval is None or interval.high is None else _PERCENT * interval.high
    value = fmean(values)
    beats = [p for score in scores for p in (score.beats_blind, score.beats_majority)]
    exceeds = None if None in beats else all(p is not None and p <= ALPHA for p in beats)
    if exceeds is not None and len(scores) > 1 and panel.query is not None:
        averaged = exceeds_baselines(cells, panel.query, language)
        exceeds = exceeds if averaged is None else averaged
    return Point(
        share=share,
        value=value,
        # Rounding may put an end of an interval on the wrong side of its value.
        low=None if low is None else min(low, value),
        high=None if high is None else max(high, value),
        seeds=values,
        majority=_mean_or_none([score.majority for score in scores]),
        blind=_mean_or_none([score.blind for score in scores]),
        chance=_mean_or_none([score.chance for score in scores]),
        n=scores[0].n,
        num_images=scores[0].num_images,
        unparsed=_mean_of_metric(cells, panel.unparsed, language),
        refusals=_mean_of_metric(cells, panel.refusals, language),
        exceeds_baselines=exceeds,
        cells=tuple(cells),
    )


def _scores_of(cells: Sequence[CellRecord], metric: str) -> list[Score]:
    evaluations = [cell.evaluation for cell in cells]
    return [stage.scores[metric] for stage in evaluations if stage and metric in stage.scores]


def _mean_of_metric(cells: Sequence[CellRecord], metric: str, language: str) -> float | None:
    scores = _scores_of(cells, metric.format(language=language))
    return fmean(score.value for score in scores) if scores else None


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None

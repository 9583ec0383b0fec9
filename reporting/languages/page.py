"""The page about several target languages: curves, sufficient shares, and what generalises."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes
from scipy import special

from core.io.files import atomic_write_text
from evaluation.statistics.meta_analysis import MIN_STUDIES, MetaAnalysis, random_effects
from evaluation.statistics.trainings.training_variance import TrainingVariance
from reporting.languages.results import (
    MARGIN,
    SMALL,
    Estimate,
    LanguageResult,
    with_training_variance,
)
from reporting.sections import figures
from reporting.studies.study_section import StudyFigure, StudyTable

_SIZE = (5.2, 3.4)
_OUTCOMES: tuple[tuple[str, str, Callable[[LanguageResult], Estimate]], ...] = (
    ("accuracy with 20 % minus 100 %, points", "difference", lambda one: one.difference),
    ("smallest sufficient share, %", "threshold", lambda one: one.threshold),
)
_COVARIATES: tuple[tuple[str, Callable[[LanguageResult], float]], ...] = (
    ("tokens relative to the base language", lambda one: one.token_ratio),
    ("another script than Latin", lambda one: float(one.about.script != "Latn")),
    ("relatedness to English", lambda one: one.about.relatedness),
)
_MIN_FOR_COVARIATES = 4
_TWO_GROUPS = 2
_SMALLEST_P = 0.001


def write_language_page(results: Sequence[LanguageResult], out: Path, *, missing: str = "") -> Path:
    """Write the page and return its path.

    Args:
        results: Results of every language.
        out: Folder of the page.
        missing: Languages that are left out, with the reason; empty if there are none.
    """
    results, variance = with_training_variance(results)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    tables = [_language_table(results), *_meta_tables(results)]
    page = environment.get_template("page.html").render(
        num=len(results),
        sentences=[
            *([f"Left out: {missing}."] if missing else []),
            *conclusions(results, variance),
        ],
        figures=[_curves(results)],
        tables=tables,
    )
    out.mkdir(parents=True, exist_ok=True)
    atomic_write_text(out / "report.html", page)
    return out / "report.html"


def conclusions(
    results: Sequence[LanguageResult], variance: TrainingVariance | None = None
) -> list[str]:
    """State the mean over languages, the prediction for a new one, and what stays open.

    Args:
        results: Results of every language.
        variance: Variance between trainings that their standard errors contain; None for none.
    """
    if len(results) < MIN_STUDIES:
        return [f"{len(results)} languages: at least {MIN_STUDIES} are needed for an average."]
    lines = []
    for title, key, of in _OUTCOMES:
        if key == "threshold" and (rising := _rising(results)):
            lines.append(rising)
            continue
        found = _fit(results, of)
        low, high = found.prediction or (math.nan, math.nan)
        lines.append(
            f"{title.capitalize()}: {100 * found.mean.value:.1f} on average over {len(results)} "
            f"languages [{100 * found.mean.low:.1f}, {100 * found.mean.high:.1f}]; for a new "
            f"language, {100 * low:.1f} to {100 * high:.1f} (95 % prediction interval). Languages "
            f"differ by a standard deviation of {100 * found.tau:.1f} "
            f"(p {_format_p(found.q_p_value)}). {_without_one(results, of)}"
        )
    if at_floor := [one.code for one in results if SMALL in one.silent]:
        lines.append(
            f"With {100 * SMALL:g} %, {', '.join(at_floor)} do not exceed the blank image and the "
            "most frequent answer. Their difference from 100 % is limited by this floor."
        )
    trainings = (
        "the variance between trainings is part of the differences between languages"
        if variance is None
        else "those of the difference between shares also cover the trainings, which differ by a "
        f"standard deviation of {100 * variance.sd:.1f} points ({variance.num_cells} cells with "
        f"several trainings, {variance.df} degrees of freedom)"
    )
    lines.append(
        "Languages are few and not drawn at random. Standard errors cover the choice of images; "
        f"{trainings}. The wordings of languages without a reviewing speaker may be wrong in ways "
        "that their scores do not show."
    )
    return lines


def _rising(results: Sequence[LanguageResult]) -> str:
    """Say that every sufficient share lies between the last two shares; empty otherwise."""
    before = {sorted(one.scores)[-2] for one in results}
    if any(one.threshold.value <= max(before) for one in results):
        return ""
    return (
        f"In every language, the accuracy still rises between {100 * max(before):g} % and the "
        "largest share, so that no smaller share was found to suffice. The shares in the table are "
        "interpolated where nothing was trained, and are not averaged here."
    )


def _without_one(
    results: Sequence[LanguageResult], of: Callable[[LanguageResult], Estimate]
) -> str:
    """State the result without the language whose absence changes the spread most."""
    if len(results) <= MIN_STUDIES:
        return ""
    spread = _fit(results, of).tau
    others = {left.code: _fit([one for one in results if one is not left], of) for left in results}
    code = max(others, key=lambda name: abs(others[name].tau - spread))
    found = others[code]
    return (
        f"Without {code}: {100 * found.mean.value:.1f} "
        f"[{100 * found.mean.low:.1f}, {100 * found.mean.high:.1f}], standard deviation "
        f"{100 * found.tau:.1f} (p {_format_p(found.q_p_value)})."
    )


def _fit(
    results: Sequence[LanguageResult],
    of: Callable[[LanguageResult], Estimate],
    covariates: Sequence[Sequence[float]] = (),
) -> MetaAnalysis:
    # A resampled threshold may not vary at all: half a point is the resolution of a share.
    errors = [max(of(one).standard_error, 0.005) for one in results]
    return random_effects([of(one).value for one in results], errors, covariates)


def _language_table(results: Sequence[LanguageResult]) -> StudyTable:
    shares = sorted({share for one in results for share in one.scores})
    rows = []
    for one in results:
        cells = []
        for share in shares:
            score = one.scores.get(share)
            text = "" if score is None else f"{100 * score.value:.1f}"
            cells.append(f"({text})" if share in one.silent else text)
        rows.append(
            (one.code, one.about.script, one.about.family, f"{one.token_ratio:.2f}", *cells,
             _format(one.difference), _format(one.threshold))
        )  # fmt: skip
    return StudyTable(
        title="Languages",
        note="Accuracy on open questions in percent by share, in parentheses where it does not "
        "exceed the blank image and the most frequent answer; 20 % minus 100 % in points; the "
        f"smallest share within {100 * MARGIN:g} points of the best, interpolated between shares, "
        "in percent. 95 % intervals over images. Tokens: of the questions, relative to English.",
        columns=("language", "script", "family", "tokens",
                 *(f"{100 * share:g} %" for share in shares), "20 - 100 %", "sufficient share"),
        rows=tuple(rows),
    )  # fmt: skip


def _format(estimate: Estimate) -> str:
    value, low, high = (100 * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _meta_tables(results: Sequence[LanguageResult]) -> list[StudyTable]:
    """Return the averages and the covariates; none with too few languages."""
    if len(results) < MIN_STUDIES:
        return []
    rows, slopes = [], []
    for title, _, of in _OUTCOMES:
        found = _fit(results, of)
        low, high = found.prediction or (math.nan, math.nan)
        mean = found.mean
        rows.append(
            (title, f"{100 * mean.value:.1f} [{100 * mean.low:.1f}, {100 * mean.high:.1f}]",
             f"{100 * low:.1f} to {100 * high:.1f}", f"{100 * found.tau:.1f}",
             f"{100 * found.i_squared:.0f} %", _format_p(found.q_p_value).removeprefix("= "))
        )  # fmt: skip
        slopes += [_slope_row(results, title, of, *covariate) for covariate in _COVARIATES]
    averages = StudyTable(
        title="Random-effects meta-analysis over languages",
        note="REML; intervals of Knapp and Hartung; prediction interval for the true value in a "
        "new language (after Nagashima et al. 2019); standard deviation between languages; part of "
        "the variance that is not an error of measurement; test of equal languages.",
        columns=("outcome", "mean [95 %]", "new language", "SD", "I2", "p, equal"),
        rows=tuple(rows),
    )
    covariates = StudyTable(
        title="Covariates, one at a time",
        note="Slope per unit with its 95 % interval, and the smallest slope that this number of "
        "languages finds with a power of 80 %: smaller ones stay undecided. Not corrected for "
        "their number, and exploratory.",
        columns=("outcome", "covariate", "slope [95 %]", "p", "detectable slope"),
        rows=tuple(row for row in slopes if row),
    )
    return [averages, covariates] if covariates.rows else [averages]


def _slope_row(
    results: Sequence[LanguageResult],
    title: str,
    of: Callable[[LanguageResult], Estimate],
    name: str,
    covariate: Callable[[LanguageResult], float],
) -> tuple[str, ...]:
    values = [covariate(one) for one in results]
    if len(results) < _MIN_FOR_COVARIATES or len(set(values)) == 1:
        return (title, name, "not estimable: too few or equal values", "", "")
    if len(set(values)) == _TWO_GROUPS and min(map(values.count, values)) == 1:
        return (title, name, "not estimable: one language alone differs", "", "")
    slope = _fit(results, of, [values]).coefficients[1]
    reach = special.stdtrit(slope.df, 0.975) + special.stdtrit(slope.df, 0.8)
    return (
        title,
        name,
        f"{100 * slope.value:.1f} [{100 * slope.low:.1f}, {100 * slope.high:.1f}]",
        _format_p(slope.p_value).removeprefix("= "),
        f"{100 * reach * slope.standard_error:.1f}",
    )


def _format_p(p_value: float) -> str:
    return f"= {p_value:.3f}" if p_value >= _SMALLEST_P else f"< {_SMALLEST_P}"


def _curves(results: Sequence[LanguageResult]) -> StudyFigure:
    def draw(axes: Axes) -> None:
        for number, one in enumerate(results):
            shares = sorted(one.scores)
            values = [100 * one.scores[share].value for share in shares]
            axes.plot([100 * s for s in shares], values, marker="o", markersize=3.5,
                      color=f"C{number % 10}", label=one.code)  # fmt: skip
        axes.set_xlabel("share of target-language images in stage 2, %")
        axes.set_ylabel("VQA accuracy, %")
        axes.set_ylim(0, 103)
        axes.legend(ncols=2, frameon=False, fontsize=8)

    return StudyFigure(
        title="Accuracy by share, per language",
        note="Open questions in the target language; one line per language.",
        svg=figures.drawing_svg(draw, _SIZE, salt="languages"),
    )

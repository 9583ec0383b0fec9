"""Section of the report about a sequential grid: path of the decisions, predictions, savings."""

from dataclasses import dataclass

from evaluation.statistics.decisions import Verdict
from evaluation.statistics.small_samples import normal_quantile, wilson_bounds
from reporting.records import GridRecord
from reporting.sequential.journal import Journal, Prediction

_FORECAST = (Verdict.SUPPORTED, Verdict.REFUTED, Verdict.UNDECIDED)


@dataclass(frozen=True, kw_only=True, slots=True)
class LookRow:
    """One look: how many cells were trained, and the state of every claim."""

    num_cells: int
    added: str
    """Cells that were trained since the look before."""
    states: tuple[str, ...]
    """One per claim."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionRow:
    """One registered prediction."""

    cell_id: str
    predicted: str
    measured: str
    result: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SequentialSection:
    """Content of the section about a sequential grid."""

    sentences: tuple[str, ...]
    claims: tuple[str, ...]
    looks: tuple[LookRow, ...]
    predictions: tuple[PredictionRow, ...]


def sequential_section(grid: GridRecord) -> SequentialSection | None:
    """Return the section; None for a grid that was not sequential.

    Raises:
        DataError: If the journal was changed.
    """
    journal = Journal.load(grid.folder)
    settings = journal.settings
    if settings is None:
        return None
    return SequentialSection(
        sentences=(
            *_savings(journal),
            *_problems(grid, journal),
            *_coverage(journal.predictions()),
        ),
        claims=tuple(settings["claims"].values()),
        looks=tuple(_look_rows(journal)),
        predictions=tuple(map(_prediction_row, journal.predictions())),
    )


def _savings(journal: Journal) -> list[str]:
    settings = journal.settings or {}
    if not journal.looks:
        return ["The start set has not been evaluated yet."]
    last = journal.looks[-1]
    trained, number = len(last["trained"]), len(settings["cells"])
    hours, full, unit = float(last["hours"]), float(settings["full_hours"]), settings["unit"]
    saved = f"{100 * (1 - hours / full):.0f} % less" if full > 0 else "unknown savings"
    state = f"The grid stopped because {journal.end}" if journal.end else "The grid is not finished"
    return [
        f"{state}: {trained} of {number} cells are trained, with {hours:.3g} of {full:.3g} planned "
        f"{unit} ({saved}).",
        f"The claims were decided on {settings['measure']} at a level of "
        f"{100 * float(settings['level']):g} % for all of them and all looks together; a claim was "
        f"closed early if the verdict of the full grid had a probability of "
        f"{_certainty(settings['certainty'])} % or more. Missing cells were predicted by the "
        "response surface, on which verdicts before the full grid rely.",
    ]


def _certainty(value: float | list[float]) -> str:
    """Return a certainty, or those of the two kinds of claims, in percent."""
    values = value if isinstance(value, list) else [value]
    return " or, for a claim about a mean difference, ".join(f"{100 * one:.3g}" for one in values)


def _problems(grid: GridRecord, journal: Journal) -> list[str]:
    """Compare the journal with the registration and with the start of the evaluations."""
    settings, problems = journal.settings or {}, list[str]()
    registration = grid.registration
    if registration is None or registration.sha256 != settings["hypotheses_sha256"]:
        problems.append(
            "The journal names other hypotheses than those registered for this grid, so its "
            "decisions are exploratory."
        )
    started = {cell.cell_id: cell.evaluation.started for cell in grid.cells
               if cell.evaluation is not None}  # fmt: skip
    late = [
        one.cell_id
        for one in journal.predictions()
        if (start := started.get(one.cell_id)) is not None and start < one.time
    ]
    if late:
        problems.append(
            f"{len(late)} predictions were registered after the evaluation of their cell had "
            f"started ({', '.join(late[:3])}), so they are none."
        )
    return problems


def _coverage(predictions: list[Prediction]) -> list[str]:
    scored = [one for one in predictions if one.is_inside is not None]
    if not scored:
        return []
    hits = sum(one.is_inside is True for one in scored)
    low, high = wilson_bounds(hits / len(scored), len(scored), normal_quantile(0.95))
    return [
        f"{hits} of {len(scored)} measurements were inside their 90 % prediction interval "
        f"({100 * low:.0f} to {100 * high:.0f} % with 95 % confidence)."
    ]


def _look_rows(journal: Journal) -> list[LookRow]:
    rows, known = list[LookRow](), set[str]()
    for look in journal.looks:
        added = [cell for cell in look["trained"] if cell not in known]
        known.update(added)
        rows.append(
            LookRow(
                num_cells=len(look["trained"]),
                added=", ".join(added),
                states=tuple(_state(state) for state in look["claims"].values()),
            )
        )
    return rows


def _state(state: dict[str, object]) -> str:
    forecast = state["forecast"]
    assert isinstance(forecast, dict)
    text = ", ".join(f"{100 * float(forecast[v]):.0f} % {v.value}" for v in _FORECAST
                     if float(forecast[v]) > 0)  # fmt: skip
    return f"{state['closed']} ({text})" if state["closed"] else text


def _prediction_row(one: Prediction) -> PredictionRow:
    return PredictionRow(
        cell_id=one.cell_id,
        predicted=f"{100 * one.mean:.1f} ({100 * one.low:.1f} to {100 * one.high:.1f})",
        measured="" if one.measured is None else f"{100 * one.measured:.1f}",
        result={True: "inside", False: "outside", None: "not trained yet"}[one.is_inside],
    )

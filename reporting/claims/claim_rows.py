"""Rows of the table of claims: every verdict with what it is about and what would decide it."""

from dataclasses import dataclass

from evaluation.statistics.decisions import Decision, Verdict
from reporting.claims.claim import NOT_RUN, Claim, ClaimResults
from reporting.claims.claim_texts import describe_parts
from reporting.claims.units import Unit

_TIE = 1e-9
"""Distance below which two differences are the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimRow:
    """One claim as text."""

    text: str
    notes: tuple[str, ...]
    """What is compared, the pooled pairs, and what was left out."""
    models: str
    """Verdict about these trained models; `open` if the cells have not run."""
    models_note: str
    recipe: str
    """Verdict about the recipes of these models."""
    recipe_note: str
    difference: str
    interval: str
    p_value: str
    needed: str
    """What would decide the claim about the trained models."""


def claim_rows(results: ClaimResults) -> list[ClaimRow]:
    """Return one row per claim."""
    return [_row(claim) for claim in results.claims]


def _row(claim: Claim) -> ClaimRow:
    if claim.decision is None or claim.recipe is None:
        state = "open" if claim.reason == NOT_RUN else Verdict.UNDECIDED.value
        return ClaimRow(
            text=claim.text, notes=_notes(claim), models=state, models_note=claim.reason,
            recipe=state, recipe_note="", difference="", interval="", p_value="", needed="",
        )  # fmt: skip
    decision = claim.decision
    return ClaimRow(
        text=claim.text,
        notes=_notes(claim),
        models=decision.verdict.value,
        models_note=claim.reason or claim.trainings.describe(),
        recipe=claim.recipe.decision.verdict.value,
        recipe_note=_recipe_note(claim),
        difference=f"{claim.unit.format_difference(decision.difference.value)} {claim.unit.name}",
        interval=_interval(decision, claim.unit),
        p_value=f"{min(decision.p_supported, decision.p_refuted):.3f}",
        needed="" if claim.reason else _needed(decision, claim.unit),
    )


def _notes(claim: Claim) -> tuple[str, ...]:
    notes = [f"{claim.unit.subject} in {claim.language}; {claim.detail}", *claim.notes]
    if claim.excluded:
        notes.append(
            "left out, because they do not exceed their blind and majority baselines: "
            + "; ".join(claim.excluded)
        )
    if claim.parts:
        notes.append(f"single pairs: {describe_parts(claim.parts, claim.unit)}")
    if claim.heterogeneity is not None and claim.heterogeneity.p_value is not None:
        found = claim.heterogeneity
        notes.append(f"equal effects in all pairs: p = {found.p_value:.3f} (Q, {found.df} df)")
    return tuple(notes)


def _interval(decision: Decision, unit: Unit) -> str:
    ends = (decision.difference.low, decision.difference.high)
    if ends[0] is None or ends[1] is None:
        return ""
    low, high = unit.format_difference(ends[0]), unit.format_difference(ends[1])
    return f"{low} to {high} ({100 * decision.confidence:.3g} %)"


def _needed(decision: Decision, unit: Unit) -> str:
    if decision.verdict is not Verdict.UNDECIDED or decision.reason:
        return ""
    if decision.clusters_needed is None:
        return f"at this difference, no number of {unit.evidence} would support it"
    number = f"{decision.clusters_needed:,}"
    return f"about {number} {unit.evidence} (now {decision.difference.num_clusters})"


def _recipe_note(claim: Claim) -> str:
    """Explain why the recipes are undecided, or how many more seeds or images would decide it."""
    recipe = claim.recipe
    if recipe is None or claim.recipe_reason:
        return claim.recipe_reason
    if recipe.decision.verdict is not Verdict.UNDECIDED:
        df = f"t with {recipe.df:.1f} df"
        return f"{claim.trainings.describe()}, {df}{_assumption(claim)}{_recipe_interval(claim)}"
    if claim.reason:
        return ""  # more data would not settle what the pooled cells disagree about
    ways = []
    if recipe.more_seeds:
        ways.append(
            f"about {recipe.more_seeds} more seed{'s' if recipe.more_seeds > 1 else ''} per cell"
        )
    if recipe.more_images:
        ways.append(f"about {recipe.more_images:,} more {claim.unit.evidence}")
    needed = " or ".join(ways) or (
        f"neither more seeds nor more {claim.unit.evidence} alone would decide it"
    )
    return f"{needed}{_assumption(claim)}{_recipe_interval(claim)}"


def _assumption(claim: Claim) -> str:
    """State that the variance between trainings was measured on other cells."""
    if not claim.num_pooled_cells:
        return ""
    return (
        f"; assumes that trainings of every cell vary as in the {claim.num_pooled_cells} "
        "replicated ones"
    )


def _recipe_interval(claim: Claim) -> str:
    """Return the interval for the recipe if it is about the difference that the row prints."""
    if claim.recipe is None or claim.decision is None:
        return ""
    decision = claim.recipe.decision
    if abs(decision.difference.value - claim.decision.difference.value) > _TIE:
        return ""
    interval = _interval(decision, claim.unit)
    return f"; {interval}" if interval else ""

"""Correction of the claims of a report for their number, and withdrawal of verdicts."""

import dataclasses
from collections.abc import Sequence

from evaluation.statistics.decisions import ALPHA, Decision, Verdict
from evaluation.statistics.multiple_testing import apply_holm
from reporting.claims.claim import Claim
from reporting.claims.claim_texts import describe_parts
from reporting.claims.hypotheses_schema import Comparison


def correct_claims(claims: Sequence[Claim]) -> list[Claim]:
    """Correct the decisions about the models and those about the recipes for their number."""
    decided = [c for c in claims if c.decision is not None and c.recipe is not None]
    if not decided:
        return list(claims)
    models = apply_holm([c.decision for c in decided if c.decision is not None])
    recipes = apply_holm([c.recipe.decision for c in decided if c.recipe is not None])
    corrected = {
        id(claim): dataclasses.replace(
            claim,
            decision=model,
            recipe=claim.recipe and dataclasses.replace(claim.recipe, decision=recipe),
        )
        for claim, model, recipe in zip(decided, models, recipes, strict=True)
    }
    return [corrected.get(id(claim), claim) for claim in claims]


def take_back(claim: Claim) -> Claim:
    """Withdraw verdicts that the pooled pairs contradict or that are no evidence."""
    if claim.decision is None or claim.recipe is None:
        return claim
    reason = claim.reason or _objection(claim, claim.decision)
    recipe_reason = _objection(claim, claim.recipe.decision)
    recipe = claim.recipe
    if recipe_reason:
        decision = dataclasses.replace(recipe.decision, verdict=Verdict.UNDECIDED)
        recipe = dataclasses.replace(recipe, decision=decision)
    decision = claim.decision
    if reason:
        decision = dataclasses.replace(decision, verdict=Verdict.UNDECIDED)
    return dataclasses.replace(
        claim,
        decision=decision,
        recipe=recipe,
        reason=reason,
        recipe_reason=recipe_reason or claim.recipe_reason,
    )


def _objection(claim: Claim, decision: Decision) -> str:
    """Return the reason for withdrawing a verdict, or an empty text.

    A verdict about a mean is kept only if it describes what was pooled: where the pairs differ
    significantly and lie on both sides of the limit of the claim, the answer depends on the pair.
    """
    if decision.verdict is Verdict.SUPPORTED and claim.empty_support:
        return claim.empty_support
    if claim.shows_nothing:
        return claim.shows_nothing
    if claim.empty_support and _leans_to_support(decision):
        return claim.empty_support  # more data would only lead to a support that does not stand
    found = claim.heterogeneity
    if decision.verdict is Verdict.UNDECIDED or found is None or found.p_value is None:
        return ""
    is_opposed = any(_opposes(claim.test, part.effect.value, decision) for part in claim.parts)
    if found.p_value > ALPHA or not is_opposed:
        return ""
    return f"the effect depends on the pooled cells ({describe_parts(claim.parts, claim.unit)})"


def _leans_to_support(decision: Decision) -> bool:
    """Return whether an undecided claim would be supported if its difference stays as observed."""
    is_open = decision.verdict is Verdict.UNDECIDED
    return is_open and decision.p_supported < decision.p_refuted


def _opposes(test: Comparison, value: float, decision: Decision) -> bool:
    """Return whether a verdict would be wrong if the difference were exactly `value`."""
    if test is Comparison.EQUIVALENCE:
        room = decision.delta - abs(value)
    else:
        room = value + (0.0 if test is Comparison.SUPERIORITY else decision.delta)
    return room < 0 if decision.verdict is Verdict.SUPPORTED else room > 0

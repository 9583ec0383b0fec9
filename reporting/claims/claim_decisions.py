"""Decision about one claim from the values per item of the cells that it compares.

Every claim is decided twice: for these trained models (images vary) and for their recipes (images
and trainings vary).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.metrics.baseline_tests import one_sided_p_value
from evaluation.statistics.decisions import (
    ALPHA,
    Bounds,
    Decision,
    RelativeMargin,
    Verdict,
    equivalence,
    judge,
    non_inferiority,
    superiority,
)
from evaluation.statistics.heterogeneity import Heterogeneity, heterogeneity
from evaluation.statistics.sweeps.sufficiency import enough_decision, sufficient_shares
from evaluation.statistics.trainings.recipes import RecipeDecision, recipe_decision
from evaluation.statistics.trainings.training_variance import TrainingVariance, training_variance
from reporting.claims.claim_cells import subtracted_cell
from reporting.claims.hypotheses_schema import BLIND, Comparison, Hypothesis
from reporting.claims.paired_scores import CellScores, align_items
from reporting.settings import Setting, format_percent

_SEED = 0
_TIE = 1e-9
"""Distance below which two differences are the same."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Margin:
    """An absolute margin, or a fraction of what the image contributes to the second cell."""

    absolute: float
    relative: float | None = None

    def apply(self, seconds: Sequence[CellScores]) -> float | RelativeMargin:
        """Return the margin for comparisons with some cells."""
        if self.relative is None:
            return self.absolute
        blind = np.mean([cell.reference for cell in seconds], axis=0)
        return RelativeMargin(fraction=self.relative, blind=blind)

    def exists_for(self, second: CellScores) -> bool:
        """Return whether the image contributes to a cell, so that a fraction of it is a margin."""
        if self.relative is None:
            return True
        return float((second.values - second.reference).mean()) > 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonOutcome:
    """Decisions about one claim, not yet corrected for the number of claims."""

    decision: Decision
    """Decision about these trained models."""
    recipe: RecipeDecision
    """Decision about their recipes."""
    heterogeneity: Heterogeneity | None = None
    """Whether the pooled pairs differ; None for a single pair."""
    notes: tuple[str, ...] = ()
    """What else the comparison shows."""


def subtract_cells(
    hypothesis: Hypothesis, cells: Mapping[Setting, CellScores]
) -> dict[Setting, CellScores]:
    """Return the values of cells less those of the cells that `minus` names."""
    found = {}
    for cell, values in cells.items():
        other = subtracted_cell(hypothesis, cell)
        if other is None or other not in cells:
            continue
        if (difference := values.minus(cells[other])) is not None:
            found[cell] = difference
    return found


def baselines(cells: Mapping[Setting, CellScores], second: str) -> dict[Setting, CellScores]:
    """Return the cells that have a baseline, with its scores instead of their own."""
    if second == BLIND:
        return {c: one.without_image() for c, one in cells.items() if one.blind_KI is not None}
    return {
        c: one.with_majority_answer() for c, one in cells.items() if one.majority_KI is not None
    }


def shows_nothing(cell: CellScores) -> bool:
    """Return whether a cell does not exceed its blind and majority baselines.

    Both paired one-sided tests must reject at the 5 % level. A cell without such baselines, as in
    retention tasks, never counts as without evidence.
    """
    if cell.blind_KI is None or cell.groups_I is not None:
        return False
    baselines = [cell.blind_KI, *([] if cell.majority_KI is None else [cell.majority_KI])]
    differences = [(cell.scores_KI - baseline).mean(axis=0) for baseline in baselines]
    return any(one_sided_p_value(values, cell.images) > ALPHA for values in differences)


def decide_pairs(
    firsts: Sequence[CellScores],
    seconds: Sequence[CellScores],
    replicated: Sequence[CellScores],
    *,
    test: Comparison,
    margin: Margin,
    alpha: float = ALPHA,
) -> ComparisonOutcome:
    """Decide a claim about the mean difference of pairs of cells.

    Args:
        firsts: First cell of every pair.
        seconds: Second cell of every pair, in the same order.
        replicated: Cells with several trainings, from which the training variance is estimated.
        test: The test. Superiority has no margin.
        margin: The margin of the other tests.
        alpha: Level for which the needed images and seeds are computed.
    """
    num_pairs = len(firsts)
    same = align_items([*firsts, *seconds, *replicated])
    firsts, seconds = same[:num_pairs], same[num_pairs : 2 * num_pairs]
    delta = 0.0 if test is Comparison.SUPERIORITY else margin.apply(seconds)
    images = same[0].images
    differences_PI = np.array([a.values - b.values for a, b in zip(firsts, seconds, strict=True)])
    first, second = (np.mean([cell.values for cell in side], axis=0) for side in (firsts, seconds))
    decision = _compare(first, second, images, test=test, delta=delta, alpha=alpha)
    recipe = recipe_decision(
        [cell.to_seed_scores() for cell in firsts],
        [cell.to_seed_scores() for cell in seconds],
        _variance(same[2 * num_pairs :]),
        test=test.value,
        delta=delta,
        alpha=alpha,
    )
    return ComparisonOutcome(
        decision=decision,
        recipe=_limit_certainty(recipe, decision, alpha),
        heterogeneity=heterogeneity(differences_PI, images) if num_pairs > 1 else None,
    )


def decide_enough(
    cells: Sequence[tuple[float, CellScores]],
    share: float,
    replicated: Sequence[CellScores],
    *,
    margin: Margin,
    alpha: float = ALPHA,
) -> ComparisonOutcome:
    """Decide whether a share is within the margin of the best share, whichever that is.

    Args:
        cells: Share and values of all cells of one setting.
        share: The share of the claim.
        replicated: Cells with several trainings.
        margin: The margin.
        alpha: Level for which the needed images and seeds are computed.
    """
    ordered = sorted(cells, key=lambda pair: pair[0])
    same = align_items([*(cell for _, cell in ordered), *replicated])
    shares = [share for share, _ in ordered]
    own, more = same[: len(shares)], same[len(shares) :]
    # Image contributions lie in -1..1, scores in 0..1, which the functions below require.
    is_halved = own[0].is_attributable
    scores_SI = np.array([_halve(cell.values) if is_halved else cell.values for cell in own])
    result = sufficient_shares(
        shares,
        scores_SI,
        own[0].images,
        delta=_share_margin(own, margin, is_halved=is_halved),
        seed=_SEED,
    )
    decision = enough_decision(result, share, alpha=alpha)
    notes = tuple(
        f"not monotone: the value at {format_percent(drop.larger)} is "
        f"{-100 * (2 if is_halved else 1) * drop.difference:.1f} points below that at "
        f"{format_percent(drop.smaller)}"
        for drop in result.drops
    )
    decision = _double(decision) if is_halved else decision
    recipe = _enough_recipe(own, shares.index(share), _variance(more), margin, alpha)
    return ComparisonOutcome(
        decision=decision,
        recipe=_limit_certainty(recipe, decision, alpha),
        notes=notes,
    )


def _limit_certainty(recipe: RecipeDecision, models: Decision, alpha: float) -> RecipeDecision:
    """Make the verdict about a recipe no more certain than that about its trained models.

    The two use different approximations for few images, and an estimated variance of trainings can
    be negative: neither p-values nor the interval of a recipe are smaller than those of its models.
    """
    p_supported = max(recipe.decision.p_supported, models.p_supported)
    p_refuted = max(recipe.decision.p_refuted, models.p_refuted)
    decision = dataclasses.replace(
        _widen(recipe.decision, models),
        p_supported=p_supported,
        p_refuted=p_refuted,
        verdict=judge(p_supported, p_refuted, alpha),
    )
    return dataclasses.replace(recipe, decision=decision)


def _widen(recipe: Decision, models: Decision) -> Decision:
    """Return a decision whose interval contains that of the models, if both are about one value."""
    inner, outer = recipe.bounds_at, models.bounds_at
    is_same = abs(recipe.difference.value - models.difference.value) <= _TIE
    if inner is None or outer is None or not is_same:
        return recipe

    def bounds_at(confidence: float) -> Bounds:
        lows, highs = zip(inner(confidence), outer(confidence), strict=True)
        return (
            min((low for low in lows if low is not None), default=None),
            max((high for high in highs if high is not None), default=None),
        )

    low, high = bounds_at(recipe.confidence)
    difference = dataclasses.replace(recipe.difference, low=low, high=high)
    return dataclasses.replace(recipe, difference=difference, bounds_at=bounds_at)


def _compare(
    first: np.ndarray,
    second: np.ndarray,
    images: Sequence[str],
    *,
    test: Comparison,
    delta: float | RelativeMargin,
    alpha: float,
) -> Decision:
    if test is Comparison.SUPERIORITY:
        return superiority(first, second, images, seed=_SEED, alpha=alpha)
    decide = equivalence if test is Comparison.EQUIVALENCE else non_inferiority
    return decide(first, second, images, delta=delta, seed=_SEED, alpha=alpha)


def _variance(replicated: Sequence[CellScores]) -> TrainingVariance | None:
    return training_variance([cell.to_seed_scores() for cell in replicated])


def _enough_recipe(
    cells: Sequence[CellScores],
    at: int,
    variance: TrainingVariance | None,
    margin: Margin,
    alpha: float,
) -> RecipeDecision:
    """Compare the recipe of one share with that of every other share.

    The claim is supported if it holds against each of them (intersection-union test, without a
    correction), and refuted if it fails against one of them (Bonferroni). A share at which the
    image contributes nothing has no relative margin; it is not the best where another one gains.
    """
    every = [cell for number, cell in enumerate(cells) if number != at]
    others = [cell for cell in every if margin.exists_for(cell)] or every

    def compare(other: CellScores, level: float) -> RecipeDecision:
        return recipe_decision(
            [cells[at].to_seed_scores()],
            [other.to_seed_scores()],
            variance,
            test=Comparison.NON_INFERIORITY.value,
            delta=margin.apply([other]),
            alpha=level,
        )

    found = [compare(other, alpha) for other in others]
    hardest = max(found, key=lambda one: one.decision.p_supported)
    p_refuted = min(1.0, len(every) * min(one.decision.p_refuted for one in found))
    p_supported = hardest.decision.p_supported
    verdict = judge(p_supported, p_refuted, alpha)
    if verdict is Verdict.UNDECIDED and hardest.decision.verdict is Verdict.REFUTED:
        # This pair alone would refute the claim, but not among so many: more data would.
        hardest = compare(others[found.index(hardest)], alpha / len(every))
    decision = dataclasses.replace(hardest.decision, p_refuted=p_refuted, verdict=verdict)
    return dataclasses.replace(hardest, decision=decision)


def _share_margin(
    cells: Sequence[CellScores], margin: Margin, *, is_halved: bool
) -> float | RelativeMargin:
    if margin.relative is None:
        return margin.absolute / 2 if is_halved else margin.absolute
    blind_SI = np.array([cell.reference for cell in cells])
    return RelativeMargin(
        fraction=margin.relative, blind=_halve(blind_SI) if is_halved else blind_SI
    )


def _halve(values: np.ndarray) -> np.ndarray:
    """Map -1..1 to 0..1, which halves differences."""
    halved: np.ndarray = (values + 1) / 2
    return halved


def _double(decision: Decision) -> Decision:
    """Undo `_halve` in a decision."""
    inner = decision.bounds_at

    def bounds_at(confidence: float) -> Bounds:
        return (None, None) if inner is None else _scale(inner(confidence))

    difference = decision.difference
    low, high = _scale((difference.low, difference.high))
    return dataclasses.replace(
        decision,
        delta=2 * decision.delta,
        difference=dataclasses.replace(difference, value=2 * difference.value, low=low, high=high),
        bounds_at=None if inner is None else bounds_at,
    )


def _scale(bounds: Bounds) -> Bounds:
    low, high = (None if bound is None else 2 * bound for bound in bounds)
    return low, high

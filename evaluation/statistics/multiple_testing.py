"""Corrections for several tests and several claims."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from evaluation.statistics.decisions import ALPHA, Decision, judge


def holm(p_values: Sequence[float] | np.ndarray, *, max_true: int | None = None) -> np.ndarray:
    """Return the adjusted p-values of a family of hypotheses, to be compared with alpha.

    Holm (1979) multiplies the smallest p-value by the number of hypotheses, the next by one less,
    and so on. If logic excludes that all hypotheses are true, no factor exceeds the number that can
    be true (Shaffer 1986, S1). The family-wise error level holds for any dependence.

    Args:
        p_values: p-value of every hypothesis.
        max_true: Largest number of hypotheses that can be true together; None for all.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    if max_true is not None:
        factors = np.minimum(factors, max_true)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def apply_holm(decisions: Sequence[Decision], *, alpha: float = ALPHA) -> list[Decision]:
    """Correct the p-values, verdicts and intervals of a family of decisions for their number.

    The probability that any verdict of the family is wrong, be it a support or a refutation, is at
    most alpha. Every claim has two hypotheses, "the claim is false" and "the claim is true", of
    which exactly one is true. Of the 2 m hypotheses of m claims, m are thus true, and Holm's
    procedure over all 2 m with Shaffer's factors (`holm` with max_true = m) multiplies every
    p-value that can lead to a verdict by m: rejecting one hypothesis of a claim implies that its
    other is true, so the number that can be true never falls. A step-down over support alone, with
    a second one over refutation, would allow 2 alpha.

    The intervals get the level 1 - 2 alpha / m. They hold together with probability 1 - 2 alpha,
    each of their sides with 1 - alpha, and exclude what the verdicts exclude.
    """
    m = len(decisions)
    pairs = [p for decision in decisions for p in (decision.p_supported, decision.p_refuted)]
    adjusted = holm(pairs, max_true=m)
    return [
        _correct(decision, float(adjusted[2 * i]), float(adjusted[2 * i + 1]), alpha=alpha, m=m)
        for i, decision in enumerate(decisions)
    ]


def _correct(
    decision: Decision, p_supported: float, p_refuted: float, *, alpha: float, m: int
) -> Decision:
    confidence = 1 - 2 * alpha / m
    difference = decision.difference
    if decision.bounds_at is not None:
        low, high = decision.bounds_at(confidence)
        difference = dataclasses.replace(difference, low=low, high=high)
    else:
        confidence = decision.confidence
    return dataclasses.replace(
        decision,
        verdict=judge(p_supported, p_refuted, alpha),
        difference=difference,
        p_supported=p_supported,
        p_refuted=p_refuted,
        confidence=confidence,
    )

"""Random-effects meta-analysis: published results of a reference implementation, and coverage."""

import numpy as np
import pytest

from core.errors import DataError
from evaluation.statistics.meta_analysis import random_effects

# Trials of the BCG vaccine (Colditz et al. 1994): cases, others (vaccinated, then not), latitude.
_TRIALS = np.array([
    (4, 119, 11, 128, 44), (6, 300, 29, 274, 55), (3, 228, 11, 209, 42),
    (62, 13536, 248, 12619, 52),
    (33, 5036, 47, 5761, 13), (180, 1361, 372, 1079, 44), (8, 2537, 10, 619, 19),
    (505, 87886, 499, 87892, 13), (29, 7470, 45, 7232, 27), (17, 1699, 65, 1600, 42),
    (186, 50448, 141, 27197, 18), (5, 2493, 3, 2338, 33), (27, 16886, 29, 17825, 33),
])  # fmt: skip


def _log_risk_ratios() -> tuple[np.ndarray, np.ndarray]:
    a, b, c, d, _ = _TRIALS.T
    ratio = np.log(a / (a + b)) - np.log(c / (c + d))
    return ratio, np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d))


def test_it_agrees_with_the_published_results_of_metafor() -> None:
    """Viechtbauer (2010), Journal of Statistical Software 36(3): REML of log risk ratios."""
    found = random_effects(*_log_risk_ratios())
    assert found.tau**2 == pytest.approx(0.3132, abs=5e-5)
    assert found.mean.value == pytest.approx(-0.7145, abs=5e-5)
    assert found.q == pytest.approx(152.2330, abs=5e-4)
    assert found.i_squared == pytest.approx(0.9222, abs=5e-5)
    # With normal quantiles its standard error is 0.1798; ours has that of Knapp and Hartung.
    assert found.mean.standard_error == pytest.approx(0.1798, abs=2e-3)
    assert found.mean.standard_error >= 0.17975
    moderated = random_effects(*_log_risk_ratios(), [_TRIALS[:, 4]])
    assert moderated.tau**2 == pytest.approx(0.0764, abs=1e-4)  # metafor iterates to 1e-5
    values = [one.value for one in moderated.coefficients]
    assert values == pytest.approx([0.2515, -0.0291], abs=5e-5)
    assert moderated.prediction is None


def test_intervals_cover_the_mean_and_a_new_study() -> None:
    rng = np.random.default_rng(0)
    num, tau, runs = 8, 0.05, 1500
    hits = np.zeros(2)
    for _ in range(runs):
        errors = rng.uniform(0.02, 0.04, num)
        truths = rng.normal(0.1, tau, num + 1)
        found = random_effects(truths[:num] + errors * rng.normal(size=num), errors)
        assert found.prediction is not None
        low, high = found.prediction
        hits += (found.mean.low <= 0.1 <= found.mean.high, low <= truths[-1] <= high)
    coverage = hits / runs
    assert 0.93 <= coverage[0] <= 0.98
    assert 0.92 <= coverage[1] <= 0.98


def test_equal_studies_have_no_heterogeneity() -> None:
    found = random_effects([0.1, 0.1, 0.1, 0.1], [0.02, 0.03, 0.02, 0.04])
    assert found.tau == 0.0
    assert found.q_p_value == pytest.approx(1.0)
    assert found.mean.value == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("values", "errors", "covariates", "words"),
    [
        ([1, 2], [1, 1], [], "at least 3"),
        ([1, 2, 3], [1, 0, 1], [], "not positive"),
        ([1, 2, 3, 4], [1, 1, 1, 1], [[1, 1, 1, 1]], "depend on each other"),
    ],
)
def test_what_cannot_be_estimated_is_an_error(
    values: list[float], errors: list[float], covariates: list[list[float]], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        random_effects(values, errors, covariates)

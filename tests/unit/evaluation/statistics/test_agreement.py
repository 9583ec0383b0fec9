"""Agreement measures against published examples, definitions and simulated coverage."""

import numpy as np
import pytest

from core.errors import DataError
from evaluation.statistics.ratings.agreement import (
    cohen_kappa,
    correlation,
    krippendorff_alpha,
    raw_agreement,
)

ITEMS = [str(i) for i in range(50)]


def test_kappa_of_a_known_table() -> None:
    """Two readers of 50 proposals: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no; kappa is 0.4."""
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = cohen_kappa(first, second, ITEMS)
    assert found is not None
    assert found.value == pytest.approx(0.4)
    assert found.low is not None
    assert found.high is not None
    # The standard error of Fleiss, Cohen and Everitt (1969) is 0.1275.
    assert (found.high - found.low) / 2 == pytest.approx(2.01 * 0.1275, rel=0.05)
    share = raw_agreement(first, second, ITEMS)
    assert share is not None
    assert share.value == pytest.approx(0.7)


def test_kappa_without_variation_is_undefined_and_perfect_agreement_is_not_certain() -> None:
    assert cohen_kappa(["a"] * 50, ["a"] * 50, ITEMS) is None
    perfect = cohen_kappa(["a", "b"] * 25, ["a", "b"] * 25, ITEMS)
    assert perfect is not None
    assert perfect.value == 1.0
    assert perfect.low is not None
    assert perfect.low < 0.95
    few = cohen_kappa(["a", "b"] * 25, ["a", "b"] * 25, ["p1", "p2"] * 25)
    assert few is not None
    assert few.low is None
    with pytest.raises(DataError, match="same number"):
        cohen_kappa(["a"], ["a", "b"], ITEMS)


def test_pairs_of_one_image_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 3, 50).repeat(4)
    second = np.where(rng.random(50).repeat(4) < 0.6, first, rng.integers(0, 3, 50).repeat(4))
    clustered = cohen_kappa(first, second, np.arange(50).repeat(4).astype(str))
    naive = cohen_kappa(first, second, np.arange(200).astype(str))
    assert clustered is not None
    assert naive is not None
    assert clustered.low is not None
    assert naive.low is not None
    assert clustered.value - clustered.low > 1.7 * (naive.value - naive.low)


def test_krippendorff_alpha_of_his_own_example() -> None:
    """Content Analysis (2004), 11.3.4: four observers, twelve units, nominal alpha 0.743."""
    table = (
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    )
    units, observers, values = zip(
        *(
            (str(unit), str(observer), value)
            for observer, row in enumerate(table)
            for unit, value in enumerate(row.split())
            if value != "."
        ),
        strict=True,
    )
    found = krippendorff_alpha(units, values, units, observers)
    assert found is not None
    assert found.value == pytest.approx(0.743, abs=5e-4)
    assert found.low is not None
    assert found.high is not None
    assert 0.2 < found.low < found.value < found.high <= 1.0
    assert krippendorff_alpha(["1", "2"], ["x", "y"], ["1", "2"], ["a", "b"]) is None
    same = krippendorff_alpha(["1", "1", "2"], ["x", "x", "y"], ["1", "1", "2"], ["a", "b", "a"])
    assert same is None, "only one value among paired units"


def test_correlations_with_clustered_intervals() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal(50)
    y = x + rng.standard_normal(50)
    pearson, spearman = correlation(x, y, ITEMS), correlation(x, np.exp(y), ITEMS, by_rank=True)
    assert pearson is not None
    assert spearman is not None
    assert pearson.value == pytest.approx(np.corrcoef(x, y)[0, 1])
    ranked = correlation(x, y, ITEMS, by_rank=True)
    assert ranked is not None
    assert spearman.value == pytest.approx(ranked.value)
    assert correlation(x, np.zeros(50), ITEMS) is None


def test_the_interval_of_kappa_covers_the_truth() -> None:
    rng = np.random.default_rng(2)
    truth, runs, covered = 0.5, 200, 0
    images = np.arange(60).repeat(2)
    for _ in range(runs):
        first = rng.integers(0, 3, len(images))
        # With equal categories the chance agreement is a third, and kappa the share of copies.
        second = np.where(rng.random(60)[images] < truth, first, rng.integers(0, 3, len(images)))
        found = cohen_kappa(first, second, images.astype(str))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert covered / runs >= 0.91

"""Cases of the simulated sequential grids: their claims and the truth of their surfaces."""

import numpy as np
import pytest

from benchmarks.sequential.__main__ import BENCHMARKS, CASES, claims_of, main, simulate, summarise
from core.rng import named_rng

_DRAWS = 20


@pytest.mark.parametrize(
    ("name", "num_claims", "num_points"),
    [
        ("shares", 2, 12),
        ("shares and text", 3, 12),
        ("shares and text, three trainings", 3, 36),
        ("full grid, two language models", 8, 24),
    ],
)
def test_a_case_has_the_registered_claims(name: str, num_claims: int, num_points: int) -> None:
    case = CASES[name]
    claims = claims_of(case)
    assert len(claims) == num_claims
    assert case.draw(named_rng(0, "values")).shape == (num_points,)
    for claim in claims:
        assert claim.weights_KP.shape[1] == num_points
        gained = np.where(claim.weights_KP > 0, claim.weights_KP, 0).sum(axis=1)
        assert gained == pytest.approx(np.ones(len(gained)))


@pytest.mark.parametrize("name", ["shares at the limit", "text without effect"])
def test_claims_at_the_limit_are_false_by_little(name: str) -> None:
    case = CASES[name]
    for at in range(_DRAWS):
        values_P = case.draw(named_rng(at, "values"))
        for claim in claims_of(case):
            smallest = (claim.weights_KP @ values_P).min()
            assert -1e-4 < smallest < 0


def test_peaks_refute_the_claim_of_their_setting() -> None:
    both, one = CASES["shares with a peak"], CASES["shares with a peak in one cell"]
    for at in range(_DRAWS):
        true = [
            [bool(claim.is_true(case.draw(named_rng(at, "values"))[None])[0])
             for claim in claims_of(case)]
            for case in (both, one)
        ]  # fmt: skip
        assert true[0] == [False, False]
        assert sorted(true[1]) == [False, True]


def test_a_summary_counts_cells_and_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    case, benchmark = CASES["shares"], BENCHMARKS["5,000 images"]
    found = summarise("few", simulate(case, benchmark, 2, 0))
    assert found["surfaces"] == 2
    assert 2 <= float(str(found["mean_cells"])) <= 12
    assert "of 12 cells on average" in capsys.readouterr().out


def test_tuning_is_refused_for_a_case_without_tuning_families() -> None:
    with pytest.raises(SystemExit):
        main(["--tuning", "--surfaces", "1", "--cases", "shares at the limit, 373 images"])

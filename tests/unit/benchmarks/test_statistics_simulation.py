"""Short runs of the simulation of the statistics (full run: docs/reference/metrics.md)."""

import json

import pytest
from scipy.stats import binom

from benchmarks import statistics_simulation
from benchmarks.statistics_rows import claims, coverage, shares
from benchmarks.statistics_rows.rows import Row, simulate_cells
from core.rng import named_rng

_ALPHA = 1e-3


def assert_within_bars(rows: list[Row]) -> None:
    """Fail if the data contradict a bar: few grids can't show that a rate is within it.

    With a hundred rows, a count that has a probability of 2 % at the bar is to be expected.
    """
    assert rows
    for row in rows:
        if row.bar is not None:
            low, high = row.bar
            assert binom.sf(row.count - 1, row.num_grids, high) > _ALPHA, row
            assert binom.cdf(row.count, row.num_grids, low) > _ALPHA, row


@pytest.mark.slow
def test_wrong_decisions_about_shares(monkeypatch):
    """The rows of finding H1, a drop and a plateau; 2,000 grids and all sizes in the full run."""
    monkeypatch.setattr(shares, "IMAGES", (35, 373))
    rows = list(shares.share_rows(100, 10_000))
    assert len(rows) == 2 * 5 * len(shares.TRUTHS)
    assert_within_bars(rows)


@pytest.mark.slow
def test_wrong_decisions_about_claims_and_families(monkeypatch):
    monkeypatch.setattr(claims, "_IMAGES", (20, 35))
    assert_within_bars(list(claims.claim_rows(60, 10_000)))
    assert_within_bars(list(claims.heterogeneity_rows(60, 10_000)))
    rows = list(claims.family_rows(60, 10_000))
    assert_within_bars(rows)
    without = [row.rate for row in rows if "uncorrected" in row.event]
    assert min(without) > 0.06, "that is what the correction is for"


@pytest.mark.slow
def test_coverage_of_few_images_and_extreme_accuracies(monkeypatch):
    monkeypatch.setattr(coverage, "_IMAGES", (35, 100))
    monkeypatch.setattr(coverage, "_SHARES", (0.02, 0.5, 0.9))
    assert_within_bars(list(coverage.share_coverage_rows(100, 10_000)))
    assert_within_bars(list(coverage.difference_coverage_rows(60, 10_000)))


def test_groups_of_other_runs_stay_in_the_file(tmp_path, monkeypatch, capsys):
    row = Row(group="g", case="c", event="e", count=3, num_grids=4, bar=(0, 0.5))
    groups = {"one": lambda grids, seed: iter([row]), "two": lambda grids, seed: iter([row, row])}
    monkeypatch.setattr(statistics_simulation, "GROUPS", groups)
    path = tmp_path / "rates.json"
    statistics_simulation.main(["--groups", "one", "--json", str(path)])
    statistics_simulation.main(["--groups", "two", "--json", str(path)])
    found = json.loads(path.read_text())
    assert {name: len(rows) for name, rows in found.items()} == {"one": 1, "two": 2}
    assert found["one"][0]["rate"] == 0.75
    assert "outside its bar" in capsys.readouterr().out


def test_accuracies_without_room_for_easy_images_are_an_error():
    with pytest.raises(ValueError, match="expected 0"):
        simulate_cells(named_rng(0, "x"), (0.1, 0.5), 10)

"""Coverage of designed runs that are left out in turn."""

import numpy as np

from benchmarks.regmix.__main__ import Runs, left_out_coverage
from core.rng import named_rng


def test_runs_left_out_are_inside_unless_one_of_them_is_wrong() -> None:
    rng = named_rng(0, "mixtures")
    shares = rng.dirichlet(np.ones(4), size=12)
    losses = np.exp(1.5 - 0.3 * np.log(shares[:, 0] + 0.05) + 0.01 * rng.standard_normal(12))
    runs = Runs(shares_ND=shares, losses_NT=losses[:, None], domains=("a", "b", "c", "d"),
                targets=("a",))  # fmt: skip
    chosen = list(range(12))
    covered = left_out_coverage(runs, chosen)
    assert covered >= 10 / 12
    losses[3] *= 3
    assert left_out_coverage(runs, chosen) < 1.0

"""Recompute a finished report from the data per question, without code of the report.

    python -m benchmarks.check_report --root mlruns --exp mix_ablation

Nothing is imported from `evaluation/` or `reporting/`: definitions are those of the documentation,
intervals and p-values come from cluster-robust t tests and an own bootstrap. Every line compares
one printed value with the recomputed one, with a tolerance for resampling and for the difference
between bootstrap and t. The exit status is 1 if any line differs.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.report_check.cells import check_cells, check_image_use, check_tables
from benchmarks.report_check.claims import check_claims
from benchmarks.report_check.data import Checks, Grid
from benchmarks.report_check.sentences import check_registration, check_shares, check_summary


def main() -> None:
    """Check one report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("mlruns"), help="output folder of runs")
    parser.add_argument("--exp", required=True, help="name of the experiment")
    parser.add_argument("--profile", default="embedded", help="profile of the grid")
    parser.add_argument("--name", default="", help="folder of the grid, if not EXP-PROFILE")
    parser.add_argument("--quiet", action="store_true", help="print differences only")
    args = parser.parse_args()
    grid = Grid(args.root, args.root / "grids" / (args.name or f"{args.exp}-{args.profile}"))
    total = Checks(is_quiet=args.quiet)
    for check in (check_registration, check_summary, check_cells, check_tables, check_image_use,
                  check_shares, check_claims):  # fmt: skip
        before = total.num_equal, len(total.differing)
        check(grid, total)
        equal, differing = total.num_equal - before[0], len(total.differing) - before[1]
        print(f"== {check.__name__}: {equal} ok, {differing} differ")
    print(f"{total.num_equal} lines ok, {len(total.differing)} differ")
    sys.exit(1 if total.differing else 0)


if __name__ == "__main__":
    main()

"""Check the intervals and decisions of the report on simulated grids with known truth.

    python -m benchmarks.statistics_simulation --grids 2000 --json docs/benchmarks/statistics.json

Every group of rows is a function of `benchmarks.statistics_rows` that simulates grids, applies the
functions of `evaluation.statistics` to them, and counts intervals without the truth and wrong
decisions. Rows of groups that a call leaves out stay in the file.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.statistics_rows.claims import claim_rows, family_rows, heterogeneity_rows
from benchmarks.statistics_rows.coverage import (
    curve_rows,
    difference_coverage_rows,
    share_coverage_rows,
)
from benchmarks.statistics_rows.rows import Row
from benchmarks.statistics_rows.shares import share_rows

GROUPS: Mapping[str, Callable[[int, int], Iterator[Row]]] = {
    "coverage": share_coverage_rows,
    "differences": difference_coverage_rows,
    "curve": curve_rows,
    "claims": claim_rows,
    "families": family_rows,
    "heterogeneity": heterogeneity_rows,
    "shares": share_rows,
}
"""Functions that yield rows from a number of grids per row and a seed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the simulation, print the rates and optionally write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--grids", type=int, default=2000, help="grids per row (default: 2000)")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the rates to this file")
    options = parser.parse_args(arguments)
    for group in options.groups:
        start = time.perf_counter()
        rows = []
        for row in GROUPS[group](options.grids, options.seed):
            mark = "" if row.has_passed else "  outside its bar"
            print(f"{row.case}; {row.event}: {row.rate:.2%}{mark}", flush=True)
            rows.append(row)
        print(f"{group}: {len(rows)} rows in {time.perf_counter() - start:.0f} s", flush=True)
        if options.json:
            _merge(options.json, group, rows)


def _merge(path: Path, group: str, rows: Sequence[Row]) -> None:
    """Replace the rows of one group in a file."""
    found = json.loads(path.read_text()) if path.is_file() else {}
    found[group] = [row.to_json() for row in rows]
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

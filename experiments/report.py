"""Builds the report of a grid: `python -m experiments.report --exp mix_ablation`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from core.process.command import clear_errors
from reporting.build import build_report


@clear_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Build a report and print its path."""
    parser = argparse.ArgumentParser(
        prog="experiments.report", description="Build the report of a grid."
    )
    add = parser.add_argument
    add("--exp", required=True, help="experiment, for example mix_ablation")
    add("--profile", default="embedded", help="profile of the grid (default: embedded)")
    add("--root", type=Path, default=Path("mlruns"), help="output folder (default: mlruns)")
    add("--out", type=Path, help="folder of the report (default: report/ in the grid's folder)")
    options = parser.parse_args(arguments)
    page = build_report(options.exp, profile=options.profile, root=options.root, out=options.out)
    Console(stderr=True).print(f"report: {page}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Builds the report of a grid: `python -m experiments.report --exp mix_ablation`."""

from core.process.command import catch_user_errors

import argparse
import sys
from collections.abc import Sequence

from configuration.grid_request import GridRequest
from core.process.options import given_path
from experiments.cli import add_grid_options, add_page_language

_EPILOG = """examples:
  python -m experiments.report --exp mix_ablation
  python -m experiments.report --exp full_grid --profile paper --out reports/full_grid
  python -m experiments.report --exp mix_ablation --page-language eu
      the page in Basque, report.eu.html
"""


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Build a report and print its path."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description="Write the report of a grid: an HTML page with figures, and all scores as CSV.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    omit = ("--set", "--seeds", "--replicate", "--only")
    group = add_grid_options(parser, omit=omit, has_name=True)
    group.add_argument(
        "--out",
        type=given_path,
        metavar="FOLDER",
        help="folder of the report (default: ROOT/grids/NAME/report)",
    )
    add_page_language(group)
    options = parser.parse_args(arguments)
    from rich.console import Console

    from reporting.build import build_report  # matplotlib and MLflow are slow to import
    from reporting.tracking.registration import tracked_registration

    name, _ = GridRequest.split_experiment(options.exp)
    experiment_name = f"{name}-{options.profile}"
    page = build_report(
        name,
        profile=options.profile,
        name=options.name,
        root=options.root,
        out=options.out,
        page_language=options.page_language,
        tracked=tracked_registration(
            options.root, options.name or experiment_name, experiment_name=experiment_name
        ),
    )
    Console(stderr=True).print(f"report: {page}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

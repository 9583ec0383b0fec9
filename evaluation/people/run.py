"""Command for human annotation: `python -m evaluation.people.run --db FILE`.

Creates the annotation database, serves the annotation page on the local host, prints results, and
exports and imports judgements.
"""

from core.process.command import catch_user_errors

import argparse
import sys
from collections.abc import Sequence

from core.process.loading import without_collection
from core.process.options import given_path, port_number, whole_number

_EPILOG = """examples:
  python -m evaluation.people.run --db people.db --language eu --most 199 --overlap 40 \\
      --pairs general=A/result/predictions.parquet adapted=B/result/predictions.parquet \\
      --images data/embedded/benchmark_test.manifest.json
      compares two cells on 199 Basque questions, 40 of them judged by all annotators
  python -m evaluation.people.run --db people.db --images data/embedded/benchmark_test.manifest.json
      serves the page again
  python -m evaluation.people.run --db people.db --results
      prints the results
  python -m evaluation.people.run --db people.db \\
      --save mlruns/grids/mix_ablation-embedded/preferences
      stores the preferences for the report of a grid
  python -m evaluation.people.run --db people.db --judge judged/preferences/FILE.parquet
      agreement with a judge
  python -m evaluation.people.run --db eu.db --items data/prepared/eu/validate/cc3m.jsonl
      reviews translated items
  python -m evaluation.people.run --db people.db --export labelstudio out.json
      exports the judgements

The page is served on 127.0.0.1 only. To use it from another host: ssh -L 7870:127.0.0.1:7870 HOST.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.people.run",
        description="Human annotation: blind comparison of two systems or review of translations.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--db", type=given_path, required=True, help="annotation database (SQLite)")
    add(
        "--pairs",
        nargs=2,
        metavar="NAME=PREDICTIONS",
        help="create the database: names and predictions.parquet of two systems to compare",
    )
    add(
        "--items",
        type=given_path,
        metavar="JSONL",
        help="create the database: translated items to review",
    )
    add(
        "--language",
        nargs="+",
        default=[],
        metavar="CODE",
        help="languages of the compared questions; the first one is that of the page (default: the "
        "target language of the systems)",
    )
    add(
        "--dataset",
        nargs="+",
        default=[],
        help="benchmarks of the questions, such as wildvision (default: all)",
    )
    add(
        "--most",
        type=whole_number(0),
        default=0,
        help="draw a random sample of this many tasks per language (default: all)",
    )
    add(
        "--overlap",
        type=whole_number(0),
        default=20,
        help="number of tasks that all annotators judge (default: 20)",
    )
    add("--images", type=given_path, metavar="MANIFEST", help="manifest of the images")
    add("--port", type=port_number, default=7870, help="port of the page (default: 7870)")
    add("--results", action="store_true", help="print the results as JSON and exit")
    add(
        "--save",
        type=given_path,
        metavar="FOLDER",
        help="store the preferences per question for the report, in mlruns/grids/GRID/preferences",
    )
    add(
        "--judge",
        type=given_path,
        metavar="PREFERENCES",
        help="print the agreement with a judge (file of evaluation.judge --save) and the estimate "
        "that combines both, per language",
    )
    add(
        "--out",
        type=given_path,
        metavar="FILE",
        help="also write the results or the agreement as JSON",
    )
    add(
        "--export",
        nargs=2,
        metavar=("FORMAT", "FILE"),
        help="export judgements as labelstudio, argilla or csv",
    )
    add(
        "--import",
        nargs=2,
        metavar=("FORMAT", "FILE"),
        dest="import_from",
        help="import judgements from labelstudio or argilla",
    )
    return parser


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = build_parser().parse_args(arguments)
    with without_collection():
        from rich.console import Console

        from evaluation.people.actions import execute

    execute(options, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Compares finished grids or cells.

python -m experiments.compare mix_ablation-embedded longer
"""

from core.process.command import catch_user_errors

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from core.errors import ConfigError
from core.process.options import given_path
from experiments.cli import add_page_language

_MAX_SIDES = 8
_EPILOG = """examples:
  python -m experiments.compare mix_ablation-embedded longer
      two grids: cells with equal axes are compared
  python -m experiments.compare mix_ablation-embedded:share20 mix_ablation-embedded:share100
      two cells, with all their seeds
  python -m experiments.compare mix_ablation-embedded mlruns/theirs/grids/mix_ablation-embedded
      a grid of another output folder
  python -m experiments.compare mix_ablation-embedded longer --page-language eu
      the page in Basque, comparison.eu.html

The page shows differences in configuration, data and cost, curves, and paired differences of every
score with 95 % intervals over images.
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.compare",
        description="Write a page that compares finished grids or cells with the first one named.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sides",
        nargs="+",
        metavar="GRID[:CELL]",
        help="name of a grid (python -m experiments.store list) or path of its folder, and a cell",
    )
    parser.add_argument(
        "--root",
        type=given_path,
        default=Path("mlruns"),
        metavar="FOLDER",
        help="output folder of all runs (default: mlruns)",
    )
    parser.add_argument(
        "--out",
        type=given_path,
        metavar="FOLDER",
        help="folder of the page (default: ROOT/comparisons/NAMES)",
    )
    add_page_language(parser)
    return parser


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print the summary and the path of the page."""
    options = build_parser().parse_args(arguments)
    names: list[str] = options.sides
    if not 2 <= len(names) <= _MAX_SIDES:  # noqa: PLR2004
        raise ConfigError(f"got {len(names)} grids or cells; name 2 to {_MAX_SIDES}")
    from rich.console import Console

    from reporting.comparison.differences import paired_scores
    from reporting.comparison.page import build_comparison, summary_sentences
    from reporting.comparison.sides import load_sides

    sides = load_sides(names, options.root)
    folder = "-vs-".join(re.sub(r"[^\w.=+-]+", "_", Path(name).name) for name in names)
    out = options.out or options.root / "comparisons" / folder[:100]
    page = build_comparison(sides, out, page_language=options.page_language)
    console = Console()
    for sentence in summary_sentences(sides, paired_scores(sides)):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    console.print(f"Comparison: {page}", highlight=False, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

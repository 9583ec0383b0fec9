"""Command that applies annotators' corrections and writes a new version of prepared data.

python -m data_prep.fixes --data data/prepared/eu --judgements fixes.csv --language eu --out NEW
"""

from core.process.command import catch_user_errors

import argparse
import sys
from collections.abc import Sequence

from core.io.files import sole_writer
from core.process.loading import without_collection
from core.process.options import given_path

_EPILOG = """examples:
  python -m evaluation.people.run --db people.db --export csv fixes.csv
  python -m data_prep.fixes --data data/prepared/eu --judgements fixes.csv --language eu \\
      --out data/prepared/eu-v2

If several annotators judged a text, the majority counts. A text without a majority, or with two
different corrections, is left unchanged and listed. If a text is rejected, its sample is left out.
"""


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Apply the corrections and print a summary."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.fixes",
        description="Apply annotators' corrections of translations and write the result as a\n"
        "new version of the prepared data. The old version is not changed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=given_path, required=True, metavar="DIR", help="folder of the prepared data")
    add(
        "--judgements",
        type=given_path,
        required=True,
        metavar="CSV",
        help="judgements exported from the annotation page",
    )
    add("--language", required=True, metavar="CODE", help="language of the corrected texts")
    add(
        "--out",
        type=given_path,
        required=True,
        metavar="DIR",
        help="folder of the new version, which must not exist",
    )
    options = parser.parse_args(arguments)
    with without_collection():
        from rich.console import Console
        from rich.markup import escape

        from data_prep.corrections import apply_fixes, read_fixes

    console = Console()
    fixes, judged, unsettled = read_fixes(options.judgements)
    with sole_writer(options.out):
        counts = apply_fixes(options.data, options.out, fixes, options.language)
    console.print(f"verdicts: {dict(judged)}; applied: {dict(counts)}", highlight=False)
    if unsettled:
        console.print(
            f"{len(unsettled)} texts without agreement, unchanged: {', '.join(unsettled[:5])}",
            highlight=False,
        )
    console.print(escape(str(options.out)), highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Command that writes the data card of prepared data from its manifests and its report.

python -m data_prep.card data/prepared/eu
"""

from core.process.command import catch_user_errors

import argparse
import sys
from collections.abc import Sequence

from core.process.options import given_path

_EPILOG = """examples:
  python -m data_prep.card data/prepared/eu
"""


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the card and print its path."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.card",
        description="Write the data card (README.md) of prepared data: its sources, licences,\n"
        "translations and the rows that were left out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder",
        type=given_path,
        help="folder of the prepared data, with its manifests; the card is written into it",
    )
    options = parser.parse_args(arguments)
    from rich.console import Console
    from rich.markup import escape

    from data_prep.prepare.data_card import write_card

    console = Console()
    path = write_card(options.folder)
    console.print(escape(str(path)), highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Command that writes the data card of a folder from its manifests, shards and report.

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
        description="Write the data card (README.md) of a folder of shards: its sources,\n"
        "licences, translations, the rows that were left out, and a header with which\n"
        "`load_dataset` of Hugging Face loads each set of shards by its name.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder",
        type=given_path,
        help="folder of the shards and their manifests; the card is written into it",
    )
    options = parser.parse_args(arguments)
    from rich.console import Console
    from rich.markup import escape

    from data_prep.shards.data_card import write_card

    console = Console()
    path = write_card(options.folder)
    console.print(escape(str(path)), highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

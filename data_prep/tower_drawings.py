"""Command that builds unlabelled drawings for training vision towers, from public packages.

The art styles of the benchmarks (test and development) are not among them, nor is any photograph.
The drawings are not shipped. Example: `python -m data_prep.tower_drawings --out data/drawings`.
"""

from core.process.command import catch_user_errors

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.io.files import sole_writer
from core.process.options import given_path
from data_prep.embedded.packages import DEFAULT_FOLDER, PackageFolder

_EPILOG = """examples:
  python -m data_prep.tower_drawings --out data/drawings
"""


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Build the drawings and print the path of their manifest."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.tower_drawings",
        description="Build unlabelled drawings for training vision towers from public packages;\n"
        "about 100 MB are downloaded. The same packages give the same bytes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=given_path,
        default=Path("data/drawings"),
        metavar="DIR",
        help="folder of the shards and the manifest (default: %(default)s)",
    )
    parser.add_argument(
        "--packages",
        type=given_path,
        default=DEFAULT_FOLDER,
        metavar="DIR",
        help="folder with the packages; missing ones are downloaded with npm and apt-get "
        "(default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    from rich.console import Console

    from data_prep.unlabelled_drawings import build_drawings

    console = Console(stderr=True)
    packages = PackageFolder(options.packages, report=console.log)
    with sole_writer(options.out):
        manifest = build_drawings(packages, options.out, console)
    console.print(str(manifest), highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

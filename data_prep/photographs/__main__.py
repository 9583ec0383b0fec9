"""Command that builds the benchmarks of photographs from Debian packages.

Example: `python -m data_prep.photographs --languages en eu`.
"""

from core.process.command import catch_user_errors

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.io.files import sole_writer
from core.process.options import given_path
from data_prep.embedded.packages import DEFAULT_FOLDER, PackageFolder

_EPILOG = """Two benchmarks are written: photos (choice among four titles, yes/no about titles,
names) and photo_descriptions (choice among four descriptions, for the prompt style instructed).
The texts are under GPL-2+ (Tux Paint) and GPL-3+ (GCompris); do not commit the result.

examples:
  python -m data_prep.photographs
  python -m data_prep.photographs --languages en ca --out data/embedded_ca
"""


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Build the benchmarks and print what they contain."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.photographs",
        description="Build benchmarks of photographs with human texts from the Debian packages\n"
        "gcompris-qt-data and tuxpaint-stamps-default, of which 205 MB are downloaded once.\n"
        "The same packages and options give the same bytes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--languages",
        nargs="+",
        default=["en", "eu"],
        metavar="CODE",
        help="languages of the questions; each needs a file languages/CODE/data.yaml "
        "(default: en eu)",
    )
    add(
        "--out",
        type=given_path,
        default=Path("data/embedded"),
        metavar="DIR",
        help="folder of the shards and manifests (default: %(default)s, where the profiles "
        "embedded and small find them)",
    )
    add(
        "--packages",
        type=given_path,
        default=DEFAULT_FOLDER,
        metavar="DIR",
        help="folder with the packages; missing ones are downloaded with apt-get and npm "
        "(default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="seed of all random choices (default: %(default)s)")
    options = parser.parse_args(arguments)
    from rich.console import Console
    from rich.markup import escape

    from data_prep.choice_checks import print_rules
    from data_prep.photographs.build import PHOTOS, build_photos

    console = Console()
    packages = PackageFolder(options.packages, report=console.log)
    with sole_writer(options.out / PHOTOS):
        built = build_photos(
            packages, options.out, options.languages, seed=options.seed, report=console.log
        )
    for benchmark in built:
        counts = ", ".join(f"{kind} {count}" for kind, count in benchmark.num_items.items())
        text = f"{benchmark.manifest}: {benchmark.num_photos} photographs; {counts}"
        console.print(escape(text), highlight=False, soft_wrap=True)
        for language, rules in benchmark.rules.items():
            print_rules(console, language, rules)
    return 0


if __name__ == "__main__":
    sys.exit(main())

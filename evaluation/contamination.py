"""Command that finds benchmark images in training data: `python -m evaluation.contamination`."""

from core.process.command import catch_user_errors

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from core.process.options import given_path

_EPILOG = """examples:
  python -m evaluation.contamination --benchmark data/embedded/benchmark_test.manifest.json \\
      --training data/embedded/emoji_caption_eu.manifest.json --pixels
"""


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if images are shared and 0 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.contamination",
        description="Find images of a benchmark in training sources; exit with 1 if there are any.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--benchmark", type=given_path, required=True, help="benchmark manifest")
    add(
        "--training",
        type=given_path,
        nargs="+",
        required=True,
        help="manifests of training sources",
    )
    add(
        "--pixels",
        action="store_true",
        help="compare reduced image content instead of bytes (slower)",
    )
    options = parser.parse_args(arguments)
    from rich.console import Console

    from evaluation.benchmarks.image_overlap import check_images

    console = Console()
    result = check_images([options.benchmark], options.training, by_pixels=options.pixels)
    console.print_json(json.dumps(dataclasses.asdict(result)))
    return int(bool(result.shared))


if __name__ == "__main__":
    sys.exit(main())

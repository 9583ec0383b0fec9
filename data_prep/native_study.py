"""Command that divides native questions into a benchmark and training items.

python -m data_prep.native_study --source eu=data/culture/eu.csv en=data/culture/en.csv
"""

from core.process.command import catch_user_errors

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.errors import ConfigError
from core.io.files import sole_writer
from core.process.loading import without_collection
from core.process.options import file_name, given_path, language_code, number_between

_EPILOG = """The tables are those of docs/guides/native-benchmark.md. Questions with the same text
are on the same side, so that no question of the benchmark is trained with another image. Written:
NAME_test (benchmark) and NAME_instruct_LANGUAGE (training items), in the folder --out.

examples:
  python -m data_prep.native_study --power
  python -m data_prep.native_study --source eu=mine/eu.csv en=mine/en.csv --form form.csv
  python -m data_prep.native_study --source eu=mine/eu.csv en=mine/en.csv --name mine \\
      --answers form.csv
  python -m data_prep.native_study --source eu=data/culture/eu.csv en=data/culture/en.csv \\
      --out data/native
"""


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the benchmark and the training items, or what speakers need to check the questions."""
    options = _parse(arguments)
    with without_collection():
        from rich.console import Console
        from rich.markup import escape

        from core.config import load_config
        from data_prep.native_checks import compare_answers, print_power, write_form, write_review
        from data_prep.native_split import NATIVE_RECIPE, write_sides
        from data_prep.prepare.benchmark_join import build
        from data_prep.prepare.benchmark_recipe import BenchmarkRecipe
        from datamodules.shards.manifest import SUFFIX

    console = Console()
    if options.power:
        print_power(console)
        return 0
    sources = _parse_sources(options.source)
    recipe = load_config(BenchmarkRecipe, NATIVE_RECIPE)
    imported = build(recipe, sources)
    for reason, count in imported.counts.most_common():
        console.print(f"{count:8,d}  {escape(reason)}", highlight=False)
    first = next(iter(sources))
    if options.form:
        write_form(options.form, Path(sources[first]))
        console.print(f"form for a second speaker: {escape(str(options.form))}", highlight=False)
        return 0
    if options.review:
        write_review(options.review, imported, first)
        console.print(f"tasks for the annotation page: {escape(str(options.review))}")
        return 0
    rejected = frozenset[str]()
    if options.answers:
        rejected = compare_answers(options.answers, imported.items, console)
    manifest = options.out / f"{options.name}_test{SUFFIX}"
    with sole_writer(manifest):
        if manifest.exists():
            raise ConfigError(f"{manifest} exists; choose another --name or remove it")
        write_sides(options, imported, rejected, sources, console)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.native_study",
        description="Divide questions of speakers into a benchmark and training items.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--source", nargs="+", default=[], metavar="LANGUAGE=TABLE", help="table of each language")
    add("--name", type=file_name, default="culture", help="name of the data (default: culture)")
    add("--out", type=given_path, default=Path("data/embedded"), metavar="DIR",
        help="folder of the data (default: %(default)s)")  # fmt: skip
    add(
        "--test-share",
        type=number_between(0, 1),
        default=0.5,
        metavar="SHARE",
        help="share of the question texts that become the benchmark (default: %(default)s)",
    )
    add(
        "--form",
        type=given_path,
        metavar="CSV",
        help="only write a form without answers, for a second speaker to fill in",
    )
    add(
        "--answers",
        type=given_path,
        metavar="CSV",
        help="a filled form: questions on which it differs are left out and counted",
    )
    add(
        "--review",
        type=given_path,
        metavar="JSONL",
        help="only write the questions as tasks of the annotation page (--items)",
    )
    add(
        "--power",
        action="store_true",
        help="only print which differences several numbers of questions can show",
    )
    options = parser.parse_args(arguments)
    if not options.source and not options.power:
        parser.error("the following arguments are required: --source")
    return options


def _parse_sources(given: Sequence[str]) -> dict[str, str]:
    pairs = [source.partition("=") for source in given]
    try:
        sources = {language_code(language): place for language, _, place in pairs}
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"--source: {error}") from error
    if not all(sources.values()) or len(sources) != len(pairs):
        raise ConfigError(f"--source {given}, expected LANGUAGE=TABLE with each language once")
    return sources


if __name__ == "__main__":
    sys.exit(main())

"""Command that converts a published benchmark to shards that the evaluation reads.

python -m data_prep.import_benchmark --recipe vqav2 --name vqa_eu --source en=A eu=B
"""

from core.process.command import catch_user_errors

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import ConfigError, unknown_name
from core.io.files import sole_writer
from core.process.loading import without_collection
from core.process.options import file_name, given_path, language_code, number_between, whole_number
from data_prep.prepare.recipe_folders import BENCHMARK_RECIPES

if TYPE_CHECKING:
    from rich.console import Console

    from data_prep.prepare.benchmark_recipe import BenchmarkRecipe

_IMAGES_PER_SHARD = 500
_EPILOG = """a source is LANGUAGE=LOCATION, where LOCATION is one of:
  FILE.parquet, 'FOLDER/*.parquet'      Parquet files with embedded images, as on the Hub
  FILE.jsonl, FILE.csv                  `image` is a path relative to the file
  hub:lukasArana/vqa-v2-eu:eu@COMMIT    dataset, split and revision on the Hugging Face Hub
Questions in several languages are matched by question_id, or by row number if the recipe names
none. To add a benchmark, write a YAML file like data_prep/benchmarks/vqav2.yaml and pass its path
to --recipe.

examples:
  python -m data_prep.import_benchmark --recipe culture --name mine \\
      --source eu=mine/eu.csv en=mine/en.csv
  python -m data_prep.import_benchmark --recipe vqav2 --name vqav2_eu \\
      --source en=hub:lukasArana/vqa-v2-eu:en@COMMIT eu=hub:lukasArana/vqa-v2-eu:eu@COMMIT
  python -m data_prep.import_benchmark --recipe mine.yaml --name mine --limit 10 \\
      --source 'eu=rows/*.parquet'
"""


def shuffle_choices(items: Sequence[dict[str, Any]]) -> None:
    """Put the options of every item into a random order, the same in all its languages.

    Items with the same texts get the same order, so that only their images distinguish them.
    """
    from core.rng import named_rng

    for item in items:
        if "choices" not in item:
            continue
        choices: dict[str, list[str]] = item["choices"]
        options = [option for texts in choices.values() for option in texts]
        rng = named_rng(0, "choices", *item["question"].values(), *options)
        order = rng.permutation(len(next(iter(choices.values())))).tolist()
        item["choices"] = {
            language: [texts[at] for at in order] for language, texts in choices.items()
        }
        item["correct_choice"] = order.index(item["correct_choice"])


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Import the benchmark and print what was left out."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.import_benchmark",
        description="Convert a published benchmark to shards that the evaluation reads.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = {path.stem: path for path in BENCHMARK_RECIPES.glob("*.yaml")}
    add = parser.add_argument
    add(
        "--recipe",
        required=True,
        help=f"recipe that describes the columns: {', '.join(sorted(known))}, or a YAML file",
    )
    add("--name", type=file_name, required=True, help="name of the benchmark and of its manifest")
    add(
        "--source",
        nargs="+",
        required=True,
        metavar="LANGUAGE=LOCATION",
        help="location of the rows in each language, see below",
    )
    add(
        "--out",
        type=given_path,
        default=Path("data/benchmarks"),
        metavar="DIR",
        help="folder of the shards and the manifest (default: %(default)s)",
    )
    add(
        "--limit",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="import only the first N questions (default: all)",
    )
    add(
        "--max-unusable",
        type=number_between(0, 1),
        default=0.0,
        metavar="FRACTION",
        help="leave out up to this fraction of rows that can't be asked or scored, and count them "
        "by reason (default: such a row is an error)",
    )
    add(
        "--shuffle-choices",
        action="store_true",
        help="put the options of each question into a random order, the same in all languages; for "
        "tables that have the correct option in predictable positions",
    )
    options = parser.parse_args(arguments)
    with without_collection():
        from rich.console import Console

        from core.config import load_config
        from data_prep.prepare.benchmark_recipe import BenchmarkRecipe
        from datamodules.shards.manifest import SUFFIX

    console = Console()
    path = known.get(options.recipe, Path(options.recipe))
    if not path.is_file():
        raise ConfigError(unknown_name("recipe", options.recipe, known))
    recipe = load_config(BenchmarkRecipe, path)
    pairs = [source.partition("=") for source in options.source]
    try:
        sources = {language_code(language): place for language, _, place in pairs}
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"--source: {error}") from error
    if not all(sources.values()) or len(sources) != len(pairs):
        raise ConfigError(
            f"--source {options.source}, expected LANGUAGE=LOCATION with each language once"
        )
    manifest = options.out / f"{options.name}{SUFFIX}"
    with sole_writer(manifest):
        if manifest.exists():
            raise ConfigError(f"{manifest} exists; choose another --name or remove it")
        _write_benchmark(options, recipe, sources, console)
    return 0


def _write_benchmark(
    options: argparse.Namespace,
    recipe: "BenchmarkRecipe",
    sources: Mapping[str, str],
    console: "Console",
) -> None:
    with without_collection():
        from rich.markup import escape

        from data_prep.choice_checks import check_text_only, print_rules
        from data_prep.prepare.benchmark_join import build
        from data_prep.shards.folder_metadata import write_metadata
        from data_prep.shards.writer import SourceInfo, write_manifest, write_shards
        from datamodules.shards.manifest import Modality

    imported = build(recipe, sources, limit=options.limit, max_unusable=options.max_unusable)
    if options.shuffle_choices:
        shuffle_choices(imported.items)
    rules = check_text_only(imported.items)
    shards = write_shards(options.out, options.name, imported.samples, per_shard=_IMAGES_PER_SHARD)
    info = SourceInfo(
        name=options.name,
        language=",".join(sources),
        modality=Modality.BENCHMARK,
        record="",
        licence=recipe.licence,
        provenance={
            "sources": sources,
            "recipe": options.recipe,
            "left_out": dict(imported.counts),
        },
        statistics={
            "text_only_accuracy": {
                language: {rule.name: round(rule.accuracy, 4) for rule in found}
                for language, found in rules.items()
            }
        }
        if rules
        else {},
    )
    manifest = write_manifest(options.out, info, shards)
    write_metadata(options.out, options.name)
    for reason, count in imported.counts.most_common():
        console.print(f"{count:8,d}  {escape(reason)}", highlight=False)
    for language, found in rules.items():
        print_rules(console, language, found)
    console.print(f"{len(imported.samples):,} images: {escape(str(manifest))}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())

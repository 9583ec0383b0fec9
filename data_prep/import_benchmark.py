"""Command that converts a published benchmark to shards that the evaluation reads.

python -m data_prep.import_benchmark --recipe vqav2 --name vqa_eu --source en=A eu=B
"""

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from core.config import load_config
from core.errors import ConfigError, DataError, unknown_name
from core.io.hub import hub_arguments
from core.process.command import catch_user_errors
from data_prep.prepare import rows
from data_prep.prepare.benchmark_recipe import BENCHMARK_RECIPES, BenchmarkRecipe, read_item
from data_prep.prepare.faults import DroppedError
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.shards.manifest import SUFFIX, Modality
from models.towers.image_transform import decode_image

_HUB = "hub:"
_IMAGES_PER_SHARD = 500
_ROWS_PER_PART = 1 << 40
_EPILOG = """a source is LANGUAGE=LOCATION, where LOCATION is one of:
  FILE.parquet, 'FOLDER/*.parquet'      Parquet files with embedded images, as on the Hub
  FILE.jsonl, FILE.csv                  `image` is a path relative to the file
  hub:lukasArana/vqa-v2-eu:eu@COMMIT    dataset, split and revision on the Hugging Face Hub
Questions in several languages are matched by question_id, or by row number if the recipe names
none. To add a benchmark, write a YAML file like data_prep/benchmarks/vqav2.yaml and pass its path
to --recipe.
"""


def read_rows(place: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a source, with images as bytes.

    Raises:
        ConfigError: If the location cannot be read.
        DataError: If a file is damaged.
    """
    if place.startswith(_HUB):
        yield from _hub_rows(place.removeprefix(_HUB))
        return
    for part in rows.split(place, per_part=_ROWS_PER_PART):
        for number, row in rows.read(part):
            if isinstance(row, DroppedError):
                raise DataError(f"{part.file}, row {number}: {row}", row.reason)
            yield row


def _hub_rows(name: str) -> Iterator[dict[str, Any]]:
    try:
        import datasets  # comes with the extra `harness`; heavy
    except ImportError as error:
        raise ConfigError("hub: needs `datasets`; pip install '.[harness]'") from error
    rest, _, revision = name.partition("@")
    repository, _, split = rest.partition(":")
    arguments = hub_arguments(repository, revision, kind="dataset")
    found = datasets.load_dataset(repository, split=split or "test", **arguments)
    for column, feature in found.features.items():
        if isinstance(feature, datasets.Image):
            found = found.cast_column(column, datasets.Image(decode=False))
    yield from found


def build(
    recipe: BenchmarkRecipe, sources: Mapping[str, str], *, limit: int = 0
) -> tuple[list[ShardSample], Counter[str]]:
    """Group the questions by image.

    Returns:
        One sample per image, and the number of rows left out by reason.

    Raises:
        DataError: If a row lacks a column of the recipe, or no question is in all languages.
    """
    counts: Counter[str] = Counter()
    items: dict[str, dict[str, Any]] = {}
    images: dict[str, bytes] = {}
    first = next(iter(sources))
    for language, place in sources.items():
        for number, row in enumerate(read_rows(place)):
            if recipe.leave_out_if and row.get(recipe.leave_out_if) in (True, "True", "true", 1):
                counts[f"{language}: {recipe.leave_out_if}"] += 1
                continue
            item = read_item(recipe, row, f"{place}, row {number}")
            key = (
                str(row[recipe.columns.question_id]) if recipe.columns.question_id else str(number)
            )
            if language != first and key not in items:
                counts[f"{language}: not in {first}"] += 1
                continue
            known = items.setdefault(key, {"languages": {}})
            known["languages"][language] = item
            if language == first:
                images[key] = _image_bytes(row[recipe.columns.image], f"{place}, row {number}")
    samples: dict[str, ShardSample] = {}
    taken = 0
    for key, known in items.items():
        if missing := [language for language in sources if language not in known["languages"]]:
            counts[f"{missing[0]}: missing"] += 1
            continue
        if limit and taken >= limit:
            break
        taken += 1
        image = images[key]
        name = hashlib.sha256(image).hexdigest()[:16]
        sample = samples.setdefault(name, ShardSample(key=name, content={"items": []}, image=image))
        sample.content["items"].append(_merge_languages(recipe, key, known["languages"]))
    if not samples:
        raise DataError(
            f"no question exists in all of {', '.join(sources)}: {dict(counts)}; check the "
            "question_id of the recipe",
            "empty",
        )
    counts["questions"] = taken
    return list(samples.values()), counts


def _merge_languages(
    recipe: BenchmarkRecipe, key: str, by_language: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    first = next(iter(by_language.values()))
    merged = {
        "question_id": key,
        "benchmark": recipe.benchmark,
        "answer_type": first["answer_type"],
        "question_type": first["question_type"],
        "question": {language: item["question"] for language, item in by_language.items()},
    }
    for name in ("answers", "choices"):
        if name in first:
            merged[name] = {language: item[name] for language, item in by_language.items()}
    if "correct_choice" in first:
        merged["correct_choice"] = first["correct_choice"]
    return merged


def _image_bytes(value: Any, where: str) -> bytes:
    image = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(image, bytes):
        raise DataError(
            f"{where}: the image column holds {type(value).__name__}, expected image bytes",
            "no image",
        )
    decode_image(image)  # report a broken image now rather than in the middle of an evaluation
    return image


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
    add("--name", required=True, help="name of the benchmark and of its manifest")
    add(
        "--source",
        nargs="+",
        required=True,
        metavar="LANGUAGE=LOCATION",
        help="location of the rows in each language, see below",
    )
    add(
        "--out",
        type=Path,
        default=Path("data/benchmarks"),
        metavar="DIR",
        help="folder of the shards and the manifest (default: %(default)s)",
    )
    add(
        "--limit",
        type=int,
        default=0,
        metavar="N",
        help="import only the first N questions (default: all)",
    )
    options = parser.parse_args(arguments)
    console = Console()
    path = known.get(options.recipe, Path(options.recipe))
    if not path.is_file():
        raise ConfigError(unknown_name("recipe", options.recipe, known))
    recipe = load_config(BenchmarkRecipe, path)
    pairs = [source.partition("=") for source in options.source]
    sources = {language: place for language, _, place in pairs}
    if not all(sources.values()) or len(sources) != len(pairs):
        raise ConfigError(
            f"--source {options.source}, expected LANGUAGE=LOCATION with each language once"
        )
    manifest = options.out / f"{options.name}{SUFFIX}"
    if manifest.exists():
        raise ConfigError(f"{manifest} exists; choose another --name or remove it")
    samples, counts = build(recipe, sources, limit=options.limit)
    shards = write_shards(options.out, options.name, samples, per_shard=_IMAGES_PER_SHARD)
    info = SourceInfo(
        name=options.name,
        language=",".join(sources),
        modality=Modality.BENCHMARK,
        record="",
        licence=recipe.licence,
        provenance={"sources": sources, "recipe": options.recipe, "left_out": dict(counts)},
    )
    write_manifest(options.out, info, shards)
    for reason, count in counts.most_common():
        console.print(f"{count:8,d}  {escape(reason)}", highlight=False)
    console.print(f"{len(samples):,} images: {escape(str(manifest))}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

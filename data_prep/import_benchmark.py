"""Command that converts a published benchmark to shards that the evaluation reads.

python -m data_prep.import_benchmark --recipe vqav2 --name vqa_eu --source en=A eu=B
"""

import argparse
import dataclasses
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
from core.io.images import decode_image
from core.process.command import catch_user_errors
from core.rng import named_rng
from data_prep.choice_checks import ChoiceQuestion, TextOnlyRule, revealing_rules, text_only_rules
from data_prep.prepare import rows
from data_prep.prepare.benchmark_recipe import BENCHMARK_RECIPES, BenchmarkRecipe, read_item
from data_prep.prepare.faults import DroppedError
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.shards.manifest import SUFFIX, Modality

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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImportedBenchmark:
    """The questions of a benchmark."""

    samples: tuple[ShardSample, ...]
    """One sample per image, which holds the items about it."""
    items: tuple[dict[str, Any], ...]
    """The same items in the order of the rows."""
    counts: Counter[str]
    """Number of questions, and of rows left out by reason."""


def build(
    recipe: BenchmarkRecipe, sources: Mapping[str, str], *, limit: int = 0
) -> ImportedBenchmark:
    """Join the questions of all languages and group them by image.

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
    joined: list[dict[str, Any]] = []
    for key, known in items.items():
        if missing := [language for language in sources if language not in known["languages"]]:
            counts[f"{missing[0]}: missing"] += 1
            continue
        if limit and len(joined) >= limit:
            break
        image = images[key]
        name = hashlib.sha256(image).hexdigest()[:16]
        sample = samples.setdefault(name, ShardSample(key=name, content={"items": []}, image=image))
        joined.append(_merge_languages(recipe, key, known["languages"]))
        sample.content["items"].append(joined[-1])
    if not samples:
        raise DataError(
            f"no question exists in all of {', '.join(sources)}: {dict(counts)}; check the "
            "question_id of the recipe",
            "empty",
        )
    counts["questions"] = len(joined)
    return ImportedBenchmark(samples=tuple(samples.values()), items=tuple(joined), counts=counts)


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
        _check_choices(key, by_language)
        merged["correct_choice"] = first["correct_choice"]
    return merged


def _check_choices(key: str, by_language: Mapping[str, dict[str, Any]]) -> None:
    """Reject options that are repeated or do not correspond across languages."""
    shapes = {
        language: (len(item["choices"]), item["correct_choice"])
        for language, item in by_language.items()
    }
    if len(set(shapes.values())) > 1:
        raise DataError(
            f"question '{key}': number of choices and correct_choice are {shapes}; give the "
            "options in the same order in every language",
            "choices differ",
        )
    for language, item in by_language.items():
        choices, correct = item["choices"], item["correct_choice"]
        if len(set(choices)) < len(choices) or not 0 <= correct < len(choices):
            raise DataError(
                f"question '{key}' in '{language}': choices {choices} with correct_choice "
                f"{correct}; options must differ, and correct_choice counts from 0",
                "wrong choices",
            )


def shuffle_choices(items: Sequence[dict[str, Any]]) -> None:
    """Put the options of every item into a random order, the same in all its languages.

    Items with the same texts get the same order, so that only their images distinguish them.
    """
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


def check_text_only(items: Sequence[dict[str, Any]]) -> dict[str, tuple[TextOnlyRule, ...]]:
    """Apply the text-only rules to the multiple-choice questions of every language."""
    questions: dict[str, list[ChoiceQuestion]] = {}
    for item in items:
        for language, choices in item.get("choices", {}).items():
            question = ChoiceQuestion(
                question=item["question"][language],
                choices=tuple(choices),
                correct_choice=item["correct_choice"],
            )
            questions.setdefault(language, []).append(question)
    return {language: text_only_rules(asked) for language, asked in questions.items()}


def _image_bytes(value: Any, where: str) -> bytes:
    image = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(image, bytes):
        raise DataError(
            f"{where}: the image column holds {type(value).__name__}, expected image bytes",
            "no image",
        )
    decode_image(image)  # report a broken image now rather than in the middle of an evaluation
    return image


def _print_rules(console: Console, language: str, rules: Sequence[TextOnlyRule]) -> None:
    best = max(rules, key=lambda rule: rule.accuracy)
    console.print(
        f"{language}: without images, the best text-only rule ({best.name}) is right in "
        f"{best.accuracy:.0%}, guessing in {best.chance:.0%}",
        highlight=False,
    )
    for rule in revealing_rules(rules):
        console.print(
            f"[yellow]warning: {escape(language)}: '{rule.name}' is right in {rule.accuracy:.0%} "
            f"(guessing: {rule.chance:.0%}, p = {rule.p_value:.2g}); the texts give answers away, "
            "so an accuracy need not come from the images; rewrite the questions, or use "
            "--shuffle-choices if the positions are predictable[/yellow]",
            highlight=False,
        )


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
    add(
        "--shuffle-choices",
        action="store_true",
        help="put the options of each question into a random order, the same in all languages; for "
        "tables that have the correct option in predictable positions",
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
    imported = build(recipe, sources, limit=options.limit)
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
    write_manifest(options.out, info, shards)
    for reason, count in imported.counts.most_common():
        console.print(f"{count:8,d}  {escape(reason)}", highlight=False)
    for language, found in rules.items():
        _print_rules(console, language, found)
    console.print(f"{len(imported.samples):,} images: {escape(str(manifest))}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

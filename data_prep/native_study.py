"""Command that divides native questions into a benchmark and training items.

python -m data_prep.native_study --source eu=data/culture/eu.csv en=data/culture/en.csv
"""

from core.process.command import catch_user_errors

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from core.config import load_config
from core.errors import ConfigError, DataError
from core.io.files import sole_writer
from core.process.options import file_name, given_path, language_code, number_between
from core.rng import named_rng
from core.yaml_text import read_yaml
from data_prep.choice_checks import check_text_only, print_rules
from data_prep.native_checks import compare_answers, print_power, write_form, write_review
from data_prep.prepare.benchmark_join import ImportedBenchmark, build
from data_prep.prepare.benchmark_recipe import BENCHMARK_RECIPES, BenchmarkRecipe
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.shards.manifest import SUFFIX, Modality

_IMAGES_PER_SHARD = 500
_RECIPE = "culture"
_EPILOG = """The tables are those of docs/guides/native-benchmark.md. Questions with the same text
are on the same side, so that no question of the benchmark is trained with another image. Written:
NAME_test (benchmark) and NAME_instruct_LANGUAGE (training items), in the folder --out.
"""


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the benchmark and the training items, or what speakers need to check the questions."""
    options = _parse(arguments)
    console = Console()
    if options.power:
        print_power(console)
        return 0
    sources = _parse_sources(options.source)
    recipe = load_config(BenchmarkRecipe, BENCHMARK_RECIPES / f"{_RECIPE}.yaml")
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
        _write(options, imported, rejected, sources, console)
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


def split_questions(
    items: Sequence[Mapping[str, Any]], test_share: float, language: str
) -> tuple[list[str], list[str]]:
    """Divide question ids into those of the benchmark and those of training, by question text.

    Raises:
        DataError: If one side would be empty.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for item in items:
        groups[item["question"][language]].append(item["question_id"])
    texts = sorted(groups)
    order = named_rng(0, "native questions", *texts).permutation(len(texts))
    num_test = round(test_share * len(texts))
    if not 0 < num_test < len(texts):
        raise DataError(
            f"--test-share {test_share:g} of {len(texts)} question texts leaves one side empty; "
            "choose another share, or write more questions",
            "empty",
        )
    sides = [[texts[at] for at in part] for part in (order[:num_test], order[num_test:])]
    test, train = (sorted(one for text in side for one in groups[text]) for side in sides)
    return test, train


def question_with_options(question: str, choices: Sequence[str], language: str) -> str:
    """Return a question that lists its options, in the form of the training questions."""
    stem, mark = (question[:-1], "?") if question.endswith("?") else (question, "")
    return f"{stem}: {_option_pattern(language).format(*choices)}{mark}"


def _option_pattern(language: str) -> str:
    """Return how a language lists four options, for example "{}, {}, {} ala {}"."""
    path = Path("languages") / language / "data.yaml"
    wording = read_yaml(path)["questions"]["choice"][0]
    found = re.search(r"\{a\}.*\{d\}", wording)
    if found is None:
        raise ConfigError(f"{path}: questions.choice has no options {{a}} to {{d}}; add them")
    return re.sub(r"\{[abcd]\}", "{}", found[0])


def _write(
    options: argparse.Namespace,
    imported: ImportedBenchmark,
    rejected: frozenset[str],
    sources: Mapping[str, str],
    console: Console,
) -> None:
    items = [item for item in imported.items if item["question_id"] not in rejected]
    first = next(iter(sources))
    test, train = split_questions(items, options.test_share, first)
    rules = check_text_only([item for item in items if item["question_id"] in set(test)])
    left_out = dict(imported.counts) | {"second speaker disagrees": len(rejected)}
    provenance = {
        "sources": dict(sources), "test_share": options.test_share, "left_out": left_out,
    }  # fmt: skip
    licence = load_config(BenchmarkRecipe, BENCHMARK_RECIPES / f"{_RECIPE}.yaml").licence
    asked = _keep(imported.samples, set(test), sources)
    shards = write_shards(options.out, f"{options.name}-test", asked, per_shard=_IMAGES_PER_SHARD)
    info = SourceInfo(name=f"{options.name}_test", language=",".join(sources), record="",
                      modality=Modality.BENCHMARK, licence=licence, provenance=provenance,
                      statistics={"num_items": len(test)})  # fmt: skip
    write_manifest(options.out, info, shards)
    trained = [
        ShardSample(
            key=f"native-{sample.key}",
            image=sample.image,
            content={
                "parallel_id": f"native-{sample.key}",
                "instruct": {lang: _conversation(sample, lang) for lang in sources},
            },
        )
        for sample in _keep(imported.samples, set(train), sources)
    ]
    shards = write_shards(
        options.out, f"{options.name}-instruct", trained, per_shard=_IMAGES_PER_SHARD
    )
    for language in sources:
        info = SourceInfo(name=f"{options.name}_instruct_{language}", language=language,
                          modality=Modality.IMAGE_TEXT, record=f"instruct.{language}",
                          licence=licence, provenance=provenance,
                          statistics={"num_questions": len(train)})  # fmt: skip
        write_manifest(options.out, info, shards)
    for language, found in rules.items():
        print_rules(console, language, found)
    console.print(
        f"{len(test)} questions about {len(asked)} images in the benchmark, {len(train)} about "
        f"{len(trained)} images for training, {len(rejected)} left out: {escape(str(options.out))}",
        highlight=False,
    )


def _keep(
    samples: Sequence[ShardSample], wanted: set[str], languages: Mapping[str, str]
) -> list[ShardSample]:
    """Return the samples with some of their items, whose questions list their options."""
    kept = []
    for sample in samples:
        items = [item for item in sample.content["items"] if item["question_id"] in wanted]
        asked = [
            item
            | {
                "question": {
                    language: question_with_options(
                        item["question"][language], item["choices"][language], language
                    )
                    for language in languages
                }
            }
            for item in items
        ]
        if asked:
            kept.append(ShardSample(key=sample.key, image=sample.image, content={"items": asked}))
    return kept


def _conversation(sample: ShardSample, language: str) -> dict[str, Any]:
    messages: list[dict[str, str]] = []
    for number, item in enumerate(sample.content["items"]):
        image = "" if number else "<image>\n"
        answer = item["choices"][language][item["correct_choice"]]
        messages += [{"role": "user", "content": f"{image}{item['question'][language]}"},
                     {"role": "assistant", "content": answer}]  # fmt: skip
    return {"messages": messages}


if __name__ == "__main__":
    sys.exit(main())

"""Division of native questions into a benchmark and training items.

`python -m data_prep.native_study` is the command.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from core.config import load_config
from core.errors import ConfigError, DataError
from core.rng import named_rng
from core.yaml_text import read_yaml
from data_prep.choice_checks import check_text_only, print_rules
from data_prep.prepare.benchmark_join import ImportedBenchmark
from data_prep.prepare.benchmark_recipe import BenchmarkRecipe
from data_prep.prepare.recipe_folders import BENCHMARK_RECIPES
from data_prep.shards.folder_metadata import write_metadata
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.shards.manifest import Modality

NATIVE_RECIPE = BENCHMARK_RECIPES / "culture.yaml"
"""Recipe of tables of native questions."""

_IMAGES_PER_SHARD = 500


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


def write_sides(
    options: argparse.Namespace,
    imported: ImportedBenchmark,
    rejected: frozenset[str],
    sources: Mapping[str, str],
    console: Console,
) -> None:
    """Write the benchmark and the training items, without the rejected questions.

    Raises:
        DataError: If one side would be empty.
    """
    items = [item for item in imported.items if item["question_id"] not in rejected]
    first = next(iter(sources))
    test, train = split_questions(items, options.test_share, first)
    rules = check_text_only([item for item in items if item["question_id"] in set(test)])
    left_out = dict(imported.counts) | {"second speaker disagrees": len(rejected)}
    provenance = {
        "sources": dict(sources), "test_share": options.test_share, "left_out": left_out,
    }  # fmt: skip
    licence = load_config(BenchmarkRecipe, NATIVE_RECIPE).licence
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
    write_metadata(options.out, options.name)
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

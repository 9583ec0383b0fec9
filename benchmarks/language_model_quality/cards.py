"""Write the model cards of the embedded language models from their recipes and measurements.

python -m benchmarks.language_model_quality.cards --corpus data/corpus --code "commit 8360a72"
"""

import argparse
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from benchmarks.language_model_quality.answers import Scores, measure
from benchmarks.language_model_quality.fertility import NAME, fertility, read_texts
from benchmarks.language_model_quality.levels import Level, load_levels
from core.chat.format import load_tokenizer
from datamodules.shards.manifest import SUFFIX, load_manifest
from evaluation.statistics.intervals import wilson_interval

LANGUAGES = ("en", "eu")
ROLES = {
    "lm_base_only": "the language model that has never seen Basque",
    "lm_general": "the language model with partial knowledge of Basque",
    "lm_adapted": "the general language model, adapted to Basque",
}
_KINDS = {
    "corpus_text": "help documents",
    "corpus_chat": "conversations",
    "corpus_listing": "conversations about listings",
    "corpus_yes_no": "conversations of yes/no questions",
}
_WIDTH = 120
_TEMPLATE = Path(__file__).with_name("card_template.md")


def main() -> None:
    """Write `model_card.md` in the folder of every language model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("data/embedded/models"), metavar="DIR")
    parser.add_argument("--data", type=Path, default=Path("data/embedded"), metavar="DIR")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"), metavar="DIR")
    parser.add_argument(
        "--code", required=True, metavar="TEXT", help="code that trained the models: its commit"
    )
    options = parser.parse_args()
    for name in ROLES:
        folder = options.models / name
        scores = measure(folder, options.data, LANGUAGES)
        card = write_card(folder, scores, options.corpus, options.code)
        (folder / "model_card.md").write_text(card, encoding="utf-8")
        print(f"wrote {folder / 'model_card.md'}")


def write_card(folder: Path, scores: Scores, corpus: Path, code: str) -> str:
    """Return the card of a language model."""
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stage, levels = recipe["config"], load_levels()
    ratio = scores.ratio(*LANGUAGES)
    low, high = scores.ratio_interval(*LANGUAGES)
    level = levels.level_of(ratio)
    is_answers = stage["stream"]["prompt_style"] == "chat"
    return _TEMPLATE.read_text(encoding="utf-8").format(
        name=folder.name,
        role=ROLES[folder.name],
        kind=config["architectures"][0],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        inner=config["intermediate_size"],
        size=_count_parameters(folder) / 1e6,
        steps=stage["num_steps"],
        start=_start(recipe),
        seed=stage["seed"],
        samples=_point("Samples per step", _samples(stage["stream"]["mixture"]["components"])),
        row=stage["stream"]["row_tokens"],
        code=_point("Code", code),
        loss="The loss counts answers and running text" if is_answers else "Every token counts",
        licences=_licences(stage["stream"]["mixture"]["components"], corpus),
        quality=_quality_table(scores),
        ratio=ratio,
        low=low,
        high=high,
        base_score=float(np.mean(scores.above_chance(LANGUAGES[0]))),
        level=describe_level(level, levels.partial, levels.adapted),
        vocabulary=config["vocab_size"],
        fertility=_fertility_table(folder, corpus),
    )


def describe_level(level: Level | None, partial: float, adapted: float) -> str:
    """Return a level with the ratio that defines it."""
    match level:
        case Level.PARTIAL:
            return f"partial ({partial:.3f})"
        case Level.ADAPTED:
            return f"adapted ({adapted:.3f})"
        case Level.BASE_ONLY:
            return "base only (0)"
    return "between two levels"


def _count_parameters(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", "pt") as weights:
        return sum(int(np.prod(weights.get_slice(key).get_shape())) for key in weights.keys())  # noqa: SIM118 - not a dict


def _point(title: str, text: str) -> str:
    return textwrap.fill(f"* **{title}**: {text}.", width=_WIDTH, subsequent_indent="  ")


def _start(recipe: Mapping[str, Any]) -> str:
    is_continued = "init" in recipe["inputs"]
    return "the model before it in the recipe" if is_continued else "random weights"


def _samples(components: Mapping[str, Mapping[str, Any]]) -> str:
    parts = []
    for source, component in components.items():
        kind, code = source.rsplit("_", 1)
        language = {"en": "English", "eu": "Basque"}[code]
        parts.append(f"{component['samples_per_step']:g} {language} {_KINDS[kind]}")
    return ", ".join(parts)


def _licences(components: Mapping[str, Mapping[str, Any]], corpus: Path) -> str:
    manifests = [load_manifest(corpus / Path(one["base"]).name) for one in components.values()]
    return ", ".join(sorted({manifest.licence for manifest in manifests}))


def _quality_table(scores: Scores) -> str:
    lines = ["| type | chance | n | English | Basque |", "|---|---|---|---|---|"]
    for kind, chance in scores.chances.items():
        cells, num = [], 0
        for language in LANGUAGES:
            answers = scores.right[language][scores.types == kind]
            low, high = wilson_interval(int(answers.sum()), len(answers))
            num = len(answers)
            cells.append(f"{100 * answers.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        lines.append(f"| {kind} | {100 * chance:.1f} | {num} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _fertility_table(folder: Path, corpus: Path) -> str:
    tokenizer = load_tokenizer(folder)
    sources = {code: corpus / f"corpus_text_{code}{SUFFIX}" for code in LANGUAGES}
    for path in sorted(corpus.glob(f"{NAME}*{SUFFIX}")):
        sources[path.name.removeprefix(NAME).removesuffix(SUFFIX)] = path
    lines = ["| language | tokens per word | per character | per byte |", "|---|---|---|---|"]
    for code, path in sources.items():
        found = fertility(tokenizer, read_texts(path))
        values = (found.per_word, found.per_character, found.per_byte)
        lines.append(f"| {code} | {' | '.join(f'{value:.2f}' for value in values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Measure how much the embedded language models know of each language, on held-out questions.

The questions are `knowledge_{language}` of the embedded data: each is asked alone after its
description and scored by exact match of the greedy answer. No training conversation of the models
contains one of them. They measure the small world of the embedded data, not general knowledge.

The ratio is the score above chance in the target language relative to the base language, averaged
over the types of questions; docs/results/default-study.md defines the levels.

    python -m benchmarks.language_model_quality
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.language_model_quality.answers import Scores, measure
from benchmarks.language_model_quality.levels import KnowledgeLevels, Level, load_levels
from evaluation.statistics.intervals import wilson_interval

EXPECTED = {
    "lm_base_only": Level.BASE_ONLY,
    "lm_general": Level.PARTIAL,
    "lm_adapted": Level.ADAPTED,
}
"""Level that a shipped model must have."""


def main() -> int:
    """Print the scores of every model; the exit code is 1 if one misses its level."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, help="folders of models (default: shipped)")
    parser.add_argument("--data", type=Path, default=Path("data/embedded"))
    parser.add_argument("--languages", nargs=2, default=["en", "eu"], metavar=("BASE", "TARGET"))
    options = parser.parse_args()
    levels = load_levels()
    print(
        f"partial {levels.partial:.3f}, adapted {levels.adapted:.3f}, "
        f"tolerance {levels.tolerance:.2f}, score in the base language at least "
        f"{levels.base_score:.2f}"
    )
    folders = options.models or [options.data / "models" / name for name in EXPECTED]
    reports = []
    for folder in folders:
        scores = measure(folder, options.data, options.languages)
        print_types(folder.name, scores)
        reports.append(print_level(folder.name, scores, levels, *options.languages))
    return 0 if all(reports) else 1


def print_types(name: str, scores: Scores) -> None:
    """Print one row per type and language, with a 95 % Wilson interval."""
    for kind, chance in scores.chances.items():
        for language, right in scores.right.items():
            answers = right[scores.types == kind]
            low, high = wilson_interval(int(answers.sum()), len(answers))
            print(
                f"{name:14s} {kind:8s} {language}  {100 * answers.mean():5.1f} % "
                f"[{100 * low:.1f}, {100 * high:.1f}]  n={len(answers)}  chance {100 * chance:.1f}"
            )


def print_level(name: str, scores: Scores, levels: KnowledgeLevels, base: str, target: str) -> bool:
    """Print the ratio and its level, and return whether the model has the level of its name."""
    ratio = scores.ratio(base, target)
    low, high = scores.ratio_interval(base, target)
    base_score = float(np.mean(scores.above_chance(base)))
    level = levels.level_of(ratio)
    expected = EXPECTED.get(name)
    is_met = base_score >= levels.base_score and level is not None and expected in (None, level)
    verdict = "within the definition" if is_met else f"OUTSIDE the definition of {expected}"
    print(
        f"{name:14s} ratio {ratio:.3f} [{low:.3f}, {high:.3f}]  {base} above chance "
        f"{base_score:.3f}  level: {level}  {verdict}\n"
    )
    return is_met


if __name__ == "__main__":
    sys.exit(main())

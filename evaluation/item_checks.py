"""Checks of benchmark items before a model is trained or asked.

An item that reaches the model without its options, or whose answer can't be parsed, produces a
plausible but meaningless score.
"""

from collections.abc import Sequence

from core.errors import ConfigError
from evaluation.answers.rule import normalise_neutral
from evaluation.answers.yes_no import YesNoParser
from evaluation.asking import AskingConfig
from evaluation.benchmarks.item_texts import check_truth
from evaluation.benchmarks.items import Benchmark, BenchmarkItem
from evaluation.benchmarks.prompting import load_prompts


def check_items(items: Sequence[BenchmarkItem], settings: AskingConfig) -> None:
    """Reject items that can't be asked or scored with some settings.

    Args:
        items: The items; their images may be empty.
        settings: How the items are asked and scored.

    Raises:
        ConfigError: If a language lacks the prompt style or words for yes and no, a template is
            invalid, or a multiple-choice item is asked without its options.
        DataError: If the answer to a yes/no item is neither yes nor no, or differs between
            languages.
    """
    book = load_prompts({item.language for item in items}, style=settings.prompt_style)
    parser = YesNoParser(book.yes_no_words, policy=settings.yes_no_policy)
    answers: dict[str, dict[str, tuple[str, ...]]] = {}
    hidden: list[tuple[BenchmarkItem, str]] = []
    for item in items:
        if item.benchmark is Benchmark.CAPTION_QA:
            where = f"benchmark '{item.dataset}', question '{item.question_id}'"
            answers.setdefault(where, {})[item.language] = item.answers
        elif item.benchmark is Benchmark.MULTIPLE_CHOICE:
            missing = _missing_choice(item, book.question_text(item))
            hidden += [(item, missing)] if missing is not None else []
    for where, by_language in answers.items():
        check_truth(by_language, parser, where)
    if hidden:
        item, choice = hidden[0]
        others = f" and {len(hidden) - 1} more" if len(hidden) > 1 else ""
        raise ConfigError(
            f"benchmark '{item.dataset}': multiple-choice question '{item.question_id}' in "
            f"'{item.language}'{others} would be asked without the option '{choice}': the template "
            f"styles.{settings.prompt_style}.mc of languages/{item.language}/prompts.yaml has no "
            "{choices}, and the question does not contain the option. Set "
            "evaluate.prompt_style=instructed (evaluation.run: --style instructed), or write the "
            "options into the question"
        )


def _missing_choice(item: BenchmarkItem, prompt: str) -> str | None:
    """Return the first option that the prompt does not contain, or None."""
    text = f" {normalise_neutral(prompt)}"
    # At the start of a word: endings may follow, as inflecting languages add them.
    return next((c for c in item.choices if f" {normalise_neutral(c)}" not in text), None)

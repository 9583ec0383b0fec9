"""Closed questions decided by token probabilities instead of a generated reply.

As in lm-evaluation-harness, the answer is the option with the highest log-likelihood as the
beginning of the reply, without its end and not divided by its length. It can always be read, so a
low accuracy is not due to the wording of replies.
"""

import itertools
from collections.abc import Sequence
from typing import Protocol

from evaluation.benchmarks.items import Benchmark, BenchmarkItem
from evaluation.benchmarks.prompting import PromptBook
from evaluation.benchmarks.questions import VisualQuestion


class OptionRater(Protocol):
    """A model that rates given replies to a question."""

    def rate(self, pairs: Sequence[tuple[VisualQuestion, str]]) -> list[float]:
        """Return the log-likelihood (nats) of every reply to its question."""
        ...


def possible_replies(item: BenchmarkItem, book: PromptBook) -> tuple[str, ...]:
    """Return the replies to a closed question of which one is right; empty for open questions.

    These are the letters or, where the prompt does not show letters, the choices of a
    multiple-choice question, and the first words for yes and no of a yes/no question.
    """
    if item.benchmark is Benchmark.MULTIPLE_CHOICE:
        return book.letters(item) or item.choices
    if item.benchmark is Benchmark.CAPTION_QA:
        words = book.yes_no_words[item.language]
        return words.yes[0], words.no[0]
    return ()


def likeliest_replies(
    rater: OptionRater, items: Sequence[BenchmarkItem], book: PromptBook
) -> list[str | None]:
    """Return the likeliest reply to every closed question, and None for open ones.

    Args:
        rater: The model.
        items: Items of benchmarks.
        book: The prompts.
    """
    replies = [possible_replies(item, book) for item in items]
    pairs = [
        (book.question(item), reply)
        for item, options in zip(items, replies, strict=True)
        for reply in options
    ]
    rates = iter(rater.rate(pairs))
    found: list[str | None] = []
    for options in replies:
        own = list(itertools.islice(rates, len(options)))
        found.append(options[own.index(max(own))] if own else None)
    return found

"""Closed questions decided by token probabilities instead of a generated reply.

As in lm-evaluation-harness, the answer is the option with the highest log-likelihood as the
beginning of the reply, without its end and not divided by its length. It can always be read, so a
low accuracy is not due to the wording of replies. A yes/no question is decided by the likeliest of
all words that would be accepted in a reply.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from evaluation.answers.phrases import plain_text
from evaluation.answers.yes_no import YesNoWords
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
    multiple-choice question, and the words for yes and no (`beginnings`) of a yes/no question.
    """
    if item.benchmark is Benchmark.MULTIPLE_CHOICE:
        return book.letters(item) or item.choices
    if item.benchmark is Benchmark.CAPTION_QA:
        return beginnings(book.yes_no_words[item.language])
    return ()


@lru_cache(maxsize=64)
def beginnings(words: YesNoWords) -> tuple[str, ...]:
    """Return the words for yes and no of a language, as listed and with a capital letter.

    A phrase that begins with another one ("no doubt", "bai horixe") is left out: as the beginning
    of a reply it is never more likely than the shorter one, which stands for both.
    """
    phrases = {tuple(plain_text(text).split()): text for text in (*words.yes, *words.no)}
    shortest = [
        text
        for own, text in phrases.items()
        if not any(own[:length] in phrases for length in range(1, len(own)))
    ]
    forms = (form for text in shortest for form in (text, text[:1].upper() + text[1:]))
    return tuple(dict.fromkeys(forms))


def likeliest_replies(
    rater: OptionRater,
    items: Sequence[BenchmarkItem],
    book: PromptBook,
    *,
    image: bytes | None = None,
) -> list[str | None]:
    """Return the likeliest reply to every closed question, and None for open ones.

    Args:
        rater: The model.
        items: Items of benchmarks.
        book: The prompts.
        image: Image to show instead of the items' own.
    """
    asked = [(book.question(item, image=image), possible_replies(item, book)) for item in items]
    # With the same image, questions are equal; each pair is rated once.
    pairs = list(dict.fromkeys((question, reply) for question, own in asked for reply in own))
    rates = dict(zip(pairs, rater.rate(pairs), strict=True))
    found: list[str | None] = []
    for question, options in asked:
        own = [rates[question, reply] for reply in options]
        found.append(options[own.index(max(own))] if own else None)
    return found

"""Answers that are longer than a reply may be: no model can give them, so they are never right.

How long an answer is depends on the tokenizer: a script that it has not seen takes several tokens
per letter.
"""

import dataclasses
import string
from collections.abc import Callable, Mapping, Sequence

from core.errors import TooShortError
from evaluation.answers.yes_no import YesNoParser
from evaluation.asking import AskingConfig
from evaluation.benchmarks.items import Benchmark, BenchmarkItem
from evaluation.benchmarks.prompting import PromptBook, load_prompts
from evaluation.metrics.scorer import Scorer

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""Returns the number of tokens that a model generates for each reply, with the end of its turn."""

_EXTRA_TOKENS = 2
"""Tokens that stand for no byte of a reply: the end of the turn, and a leading space."""
_MAX_SHOWN = 60


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class UnreachableAnswers:
    """The items of one benchmark, kind and language whose every accepted answer is too long."""

    dataset: str
    kind: Benchmark
    language: str
    limit: int
    num_items: int
    """Number of items without an answer that fits."""
    num_asked: int
    """Number of items of the benchmark, kind and language."""
    num_tokens: int
    """Limit at which every item has an answer that fits."""
    question_id: str
    """The item that needs the most tokens."""
    answer: str
    """Its shortest accepted answer."""

    def describe(self) -> str:
        """Return what does not fit, in one line."""
        answer = self.answer if len(self.answer) <= _MAX_SHOWN else f"{self.answer[:_MAX_SHOWN]}..."
        return (
            f"{self.dataset}, {self.kind} in '{self.language}': {self.num_items} of "
            f"{self.num_asked} questions need more than {self.limit} tokens, up to "
            f"{self.num_tokens} (question '{self.question_id}': '{answer}')"
        )


def find_unreachable(
    items: Sequence[BenchmarkItem], settings: AskingConfig, count_tokens: CountTokens
) -> list[UnreachableAnswers]:
    """Return what can't be answered within the limits, by benchmark, kind and language.

    Args:
        items: The items; their images may be empty.
        settings: How the items are asked; with the limits.
        count_tokens: Counts tokens as the model generates them.
    """
    book = load_prompts({item.language for item in items}, style=settings.prompt_style)
    accepted = _AcceptedAnswers(book, settings)
    groups: dict[tuple[str, Benchmark, str], list[BenchmarkItem]] = {}
    for item in items:
        groups.setdefault((item.dataset, item.benchmark, item.language), []).append(item)
    found = []
    for (dataset, kind, language), group in groups.items():
        limit = settings.limits.of_kind(kind)
        # A token stands for at least one byte, so most answers need not be tokenised.
        doubtful = {
            item.question_id: answers
            for item in group
            if (answers := accepted.of(item))
            and min(len(a.encode("utf-8")) for a in answers) + _EXTRA_TOKENS > limit
        }
        shortest = _shortest(doubtful, count_tokens)
        longer = {key: pair for key, pair in shortest.items() if pair[0] > limit}
        if longer:
            question_id, (num_tokens, answer) = max(longer.items(), key=lambda pair: pair[1][0])
            found.append(
                UnreachableAnswers(
                    dataset=dataset, kind=kind, language=language, limit=limit,
                    num_items=len(longer), num_asked=len(group), num_tokens=num_tokens,
                    question_id=question_id, answer=answer,
                )
            )  # fmt: skip
    return found


def check_reply_lengths(
    items: Sequence[BenchmarkItem], settings: AskingConfig, count_tokens: CountTokens
) -> None:
    """Reject limits of replies within which some items can't be answered.

    Args:
        items: The items; their images may be empty.
        settings: How the items are asked; with the limits.
        count_tokens: Counts tokens as the model generates them.

    Raises:
        TooShortError: If there are such items; the message gives the limits that are enough.
    """
    found = find_unreachable(items, settings, count_tokens)
    if found:
        enough = sufficient_settings(found, settings)
        raise TooShortError(
            "some questions have no accepted answer that fits into the limit of a reply: "
            f"{'; '.join(one.describe() for one in found)}. Set {' '.join(enough)}",
            enough,
        )


def sufficient_settings(found: Sequence[UnreachableAnswers], settings: AskingConfig) -> list[str]:
    """Return the overrides of a grid (`evaluate.KEY=VALUE`) that are enough for all items."""
    needed: dict[str, int] = {}
    for one in found:
        is_own = one.kind.value in settings.max_new_tokens_by_kind
        key = f"max_new_tokens_by_kind.{one.kind.value}" if is_own else "max_new_tokens"
        needed[key] = max(needed.get(key, 0), one.num_tokens)
    return [f"evaluate.{key}={value}" for key, value in needed.items()]


class _AcceptedAnswers:
    """The replies that count as right, as far as they can be listed."""

    def __init__(self, book: PromptBook, settings: AskingConfig) -> None:
        self._book = book
        self._scorer = Scorer(YesNoParser(book.yes_no_words, policy=settings.yes_no_policy))

    def of(self, item: BenchmarkItem) -> tuple[str, ...]:
        """Return the accepted answers of an item; empty if every reply is accepted."""
        if item.benchmark is Benchmark.CAPTION_QA:
            words = self._book.yes_no_words[item.language]
            is_yes = self._scorer.is_yes(item)
            return words.yes + words.yes_replies if is_yes else words.no + words.no_replies
        if item.correct_choice is None:
            return item.answers
        letter = string.ascii_uppercase[item.correct_choice : item.correct_choice + 1]
        line = f"{letter}. {item.choices[item.correct_choice]}"
        shows_letters = bool(letter) and line in self._book.question_text(item)
        return (*item.answers, letter) if shows_letters else item.answers


def _shortest(
    answers: Mapping[str, Sequence[str]], count_tokens: CountTokens
) -> dict[str, tuple[int, str]]:
    """Return question id -> tokens and text of its shortest answer."""
    distinct = sorted({answer for own in answers.values() for answer in own})
    lengths = dict(zip(distinct, count_tokens(distinct), strict=True)) if distinct else {}
    return {key: min((lengths[a], a) for a in own) for key, own in answers.items()}

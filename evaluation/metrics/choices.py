"""Free replies to closed questions: which choice, or yes or no, and how well that went.

A reply that can't be read is wrong and counted; nothing is guessed for it (a random fallback is
how harnesses come to disagree).
"""

import dataclasses
import re
import string
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import torch
from torchmetrics import Metric

from core.chat.characters import is_in_word
from core.errors import ConfigError, DataError
from evaluation.answers.registry import normalise_neutral

_LETTER = re.compile(r"\s*\(?([A-Za-z])(?:\s*$|[.):](?:\s|$))")
_PERCENT = 100.0
_UNPARSED = -1
_IN_NUMBERS = frozenset(string.digits + ".,")
"""Normalised text has a full stop or comma between digits only."""

_Phrase = tuple[str, ...]


class ParsedBy(StrEnum):
    """Which rule read a reply."""

    TEXT = "text"
    LETTER = "letter"
    SUBSTRING = "substring"
    NOTHING = "nothing"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ParsedChoice:
    """A reply read as one of the choices."""

    index: int | None
    by: ParsedBy


def parse_choice(reply: str, choices: Sequence[str]) -> ParsedChoice:
    """Read a reply as a choice: by its text, then by a letter, then by a unique substring.

    Text: equal after neutral normalisation. Letter: "B", "b", "(B)", or a reply that begins with
    "B.", "B)" or "B:". Substring: exactly one choice occurs in the reply at the start of a word
    (endings may follow, as inflecting languages add them, but "12" is no "1"; of two choices at one
    place the longer counts), or the reply is some whole words of exactly one choice.
    """
    text = normalise_neutral(reply)
    options = [normalise_neutral(choice) for choice in choices]
    if text and options.count(text) == 1:
        return ParsedChoice(index=options.index(text), by=ParsedBy.TEXT)
    if match := _LETTER.match(reply):
        index = string.ascii_lowercase.index(match[1].lower())
        if index < len(choices):
            return ParsedChoice(index=index, by=ParsedBy.LETTER)
    found = _unique_substring(text, options)
    by = ParsedBy.NOTHING if found is None else ParsedBy.SUBSTRING
    return ParsedChoice(index=found, by=by)


def _unique_substring(text: str, options: Sequence[str]) -> int | None:
    if not text:
        return None
    longest_at: dict[int, int] = {}
    for option in options:
        for start in _word_starts(option, text):
            longest_at[start] = max(longest_at.get(start, 0), len(option))
    spans = [(start, start + size) for start, size in longest_at.items()]
    found = {
        index
        for index, option in enumerate(options)
        for start in _word_starts(option, text)
        if not any(_is_inside((start, start + len(option)), span) for span in spans)
    }
    if not found:
        found = {index for index, option in enumerate(options) if _has_words(option, text)}
    return found.pop() if len(found) == 1 else None


def _word_starts(needle: str, text: str) -> list[int]:
    """Where it begins a word; endings may follow, but of a number no further digits."""
    ends_in_digit = needle[-1:].isdigit()
    return [
        start
        for start, end in _places(needle, text)
        if not _is_joined(text, start)
        and not (ends_in_digit and (text[end : end + 1] or " ") in _IN_NUMBERS)
    ]


def _has_words(text: str, words: str) -> bool:
    return any(not _is_joined(text, start) and not _is_joined(text, end)
               for start, end in _places(words, text))  # fmt: skip


def _places(needle: str, text: str) -> list[tuple[int, int]]:
    if not needle:
        return []
    found = re.finditer(rf"(?={re.escape(needle)})", text)
    return [(match.start(), match.start() + len(needle)) for match in found]


def _is_joined(text: str, at: int) -> bool:
    """Whether one word or number goes on from before this place to behind it."""
    return 0 < at < len(text) and all(
        is_in_word(letter) or letter in _IN_NUMBERS for letter in text[at - 1 : at + 1]
    )


def _is_inside(span: tuple[int, int], other: tuple[int, int]) -> bool:
    return other[0] <= span[0] and span[1] <= other[1] and span != other


class YesNoPolicy(StrEnum):
    """Whether another language's yes or no counts."""

    ASKED_LANGUAGE = "asked_language"
    """Only the language of the question: a Basque question answered "yes" is unparsed."""
    ANY_LANGUAGE = "any_language"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class YesNoWords:
    """How a language says yes and no: words or phrases ("nac ydy"), in any spelling of case."""

    yes: tuple[str, ...]
    no: tuple[str, ...]


class YesNoParser:
    """Reads replies as yes, no, or neither."""

    def __init__(
        self,
        words: Mapping[str, YesNoWords],
        *,
        policy: YesNoPolicy = YesNoPolicy.ASKED_LANGUAGE,
    ) -> None:
        """Take the words of every language of the run."""
        self.words = words
        self.policy = policy

    def parse(self, reply: str, language: str) -> bool | None:
        """Yes, no, or None: what the reply begins with decides, else the only kind found in it.

        Of two phrases at one place the longer counts: Welsh "nac ydy" is a no, "ydy" a yes.

        Raises:
            ConfigError: nobody said how the language says yes and no.
        """
        verdicts = self._verdicts(language)
        longest = max(len(phrase) for phrase in verdicts)
        words = tuple(normalise_neutral(reply).split())
        found, at = list[tuple[int, bool]](), 0
        while at < len(words):
            sizes = (size for size in range(longest, 0, -1) if words[at : at + size] in verdicts)
            size = next(sizes, 0)
            if size:
                found.append((at, verdicts[words[at : at + size]]))
            at += size or 1
        if found and found[0][0] == 0:
            return found[0][1]
        kinds = {verdict for _, verdict in found}
        return kinds.pop() if len(kinds) == 1 else None

    def _verdicts(self, language: str) -> dict[_Phrase, bool]:
        own = self.words.get(language, YesNoWords(yes=(), no=()))
        if not own.yes or not own.no:
            raise ConfigError(
                f"no words for yes and no in '{language}'; name yes_words and no_words in "
                f"languages/{language}/prompts.yaml"
            )
        verdicts: dict[_Phrase, bool] = {}
        if self.policy is YesNoPolicy.ANY_LANGUAGE:
            for words in self.words.values():
                verdicts |= _as_verdicts(words)
        # The asked language wins where two languages share a word.
        return verdicts | _as_verdicts(own)


def _as_verdicts(words: YesNoWords) -> dict[_Phrase, bool]:
    kinds = ((words.yes, True), (words.no, False))
    return {
        tuple(normalise_neutral(phrase).split()): kind
        for phrases, kind in kinds
        for phrase in phrases
    }


class MultipleChoiceAccuracy(Metric):
    """Accuracy and share of unparsed replies, in percent."""

    full_state_update = False
    counts: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        """Start with no items; `kwargs` are torchmetrics'."""
        super().__init__(**kwargs)
        # items, right, unparsed
        zeros = torch.zeros(3, dtype=torch.float64)
        self.add_state("counts", default=zeros, dist_reduce_fx="sum")

    def update(self, parsed: Sequence[int | None], correct: Sequence[int]) -> None:
        """Add items: the choice each reply was read as, and the right one."""
        for choice, right in zip(parsed, correct, strict=True):
            self.counts += self.counts.new_tensor([1, choice == right, choice is None])

    def compute(self) -> dict[str, torch.Tensor]:
        """Percentages "accuracy" and "unparsed".

        Raises:
            DataError: no item was added.
        """
        items, right, unparsed = self.counts
        if not items:
            raise DataError("multiple-choice accuracy of no items; call update with at least one")
        return {"accuracy": _PERCENT * right / items, "unparsed": _PERCENT * unparsed / items}


class YesNoAccuracy(Metric):
    """Accuracy, precision, recall, F1 (of "yes"), yes-ratio and unparsed share, in percent.

    An unparsed reply is wrong: it misses a "yes" and is no "yes" of its own. A ratio over nothing
    (no "yes" predicted, say) is 0.
    """

    full_state_update = False
    counts: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        """Start with no items; `kwargs` are torchmetrics'."""
        super().__init__(**kwargs)
        # rows: truth no, yes; columns: reply no, yes, unparsed
        zeros = torch.zeros(2, 3, dtype=torch.float64)
        self.add_state("counts", default=zeros, dist_reduce_fx="sum")

    def update(self, parsed: Sequence[bool | None], correct: Sequence[bool]) -> None:
        """Add items: what each reply was read as, and the truth."""
        for reply, truth in zip(parsed, correct, strict=True):
            column = _UNPARSED if reply is None else int(reply)
            self.counts[int(truth), column] += 1

    def compute(self) -> dict[str, torch.Tensor]:
        """Percentages by name.

        Raises:
            DataError: no item was added.
        """
        total = self.counts.sum()
        if not total:
            raise DataError("yes/no accuracy of no items; call update with at least one")
        hits, said_yes, truly_yes = self.counts[1, 1], self.counts[:, 1].sum(), self.counts[1].sum()
        return {
            "accuracy": _PERCENT * (self.counts[0, 0] + hits) / total,
            "precision": _PERCENT * hits / said_yes.clamp(min=1),
            "recall": _PERCENT * hits / truly_yes.clamp(min=1),
            "f1": _PERCENT * 2 * hits / (said_yes + truly_yes).clamp(min=1),
            "yes_ratio": _PERCENT * said_yes / total,
            "unparsed": _PERCENT * self.counts[:, 2].sum() / total,
        }

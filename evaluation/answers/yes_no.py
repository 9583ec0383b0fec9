"""Parsing of free replies to yes/no questions."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum

from core.errors import ConfigError
from evaluation.answers.phrases import compile_phrases, phrase_words, plain_text, split_clauses

_Words = tuple[str, ...]


class YesNoPolicy(StrEnum):
    """The languages in which a yes or no is accepted."""

    ASKED_LANGUAGE = "asked_language"
    """The language of the question only: "yes" to a Basque question is unparsed."""
    ANY_LANGUAGE = "any_language"
    """Any language of the run."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class YesNoWords:
    """Words or phrases for yes and no in a language ("nac ydy"); case does not matter."""

    yes: tuple[str, ...]
    """Decide at the beginning of a reply, and elsewhere if all words that occur agree."""
    no: tuple[str, ...]
    yes_replies: tuple[str, ...] = ()
    """Decide only if they are a complete clause: "Right." but not "the right side"."""
    no_replies: tuple[str, ...] = ()
    neither: tuple[str, ...] = ()
    """Phrases of replies that mean neither, such as refusals ("no idea") and "yes and no"."""
    openings: tuple[str, ...] = ()
    """Words that may precede the answer: "the", "answer" and "is" in "the answer is yes"."""


class YesNoParser:
    """Parses replies as yes, no or neither."""

    def __init__(
        self,
        words: Mapping[str, YesNoWords],
        *,
        policy: YesNoPolicy = YesNoPolicy.ASKED_LANGUAGE,
    ) -> None:
        """Create a parser for all languages of a run.

        Args:
            words: The words for yes and no by language.
            policy: The languages in which a yes or no is accepted.
        """
        self.words = words
        self.policy = policy
        self._lexicons: dict[str, _Lexicon] = {}

    def parse(self, reply: str, language: str) -> bool | None:
        """Return whether the reply means yes, or None if it means neither.

        The following rules apply in this order. If two phrases start at the same word, the longer
        one counts: Welsh "nac ydy" means no, "ydy" means yes.

        1. Complete clauses that contradict each other ("Yes. No.") mean neither.
        2. A phrase that means neither decides, except after a yes at the beginning ("Yes, but I
           don't know which"): "No, I can't see the image" is a refusal.
        3. A word for yes or no at the beginning decides; openings may precede it.
        4. Otherwise, all words for yes or no, and all clauses that are a complete reply ("it is"),
           must agree.

        Raises:
            ConfigError: If the language has no words for yes and no.
        """
        if language not in self._lexicons:
            self._lexicons[language] = self._build_lexicon(language)
        lexicon = self._lexicons[language]
        complete = lexicon.complete_clauses(reply)
        if len(complete) > 1:
            return None
        words = plain_text(reply).split()
        found = _find(words, lexicon.meanings)
        begins = found[0] if found and lexicon.openings.issuperset(words[: found[0].at]) else None
        declined = lexicon.declined_at(words)
        if declined is not None and not (begins and begins.is_yes and declined > begins.at):
            return None
        kinds = {begins.is_yes} if begins else complete | {phrase.is_yes for phrase in found}
        return kinds.pop() if len(kinds) == 1 else None

    def _build_lexicon(self, language: str) -> "_Lexicon":
        own = self.words.get(language, YesNoWords(yes=(), no=()))
        if not own.yes or not own.no:
            raise ConfigError(
                f"no words for yes and no in '{language}'; add yes_words and no_words to "
                f"languages/{language}/prompts.yaml"
            )
        # The language of the question comes last: it takes precedence for a shared word.
        accepted = [own]
        if self.policy is YesNoPolicy.ANY_LANGUAGE:
            accepted = [words for code, words in self.words.items() if code != language] + accepted
        meanings: dict[_Words, bool] = {}
        replies: dict[_Words, bool] = {}
        for words in accepted:
            meanings |= _meanings(words.yes, words.no)
            replies |= _meanings(words.yes_replies, words.no_replies)
        return _Lexicon(
            meanings=meanings,
            replies=replies | meanings,
            neither=compile_phrases(tuple(p for words in accepted for p in words.neither)),
            openings=frozenset(plain_text(word) for words in accepted for word in words.openings),
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _FoundPhrase:
    at: int
    """Index of the first word."""
    num_words: int
    is_yes: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Lexicon:
    """The phrases that are accepted in replies to questions of a language."""

    meanings: Mapping[_Words, bool]
    replies: Mapping[_Words, bool]
    neither: re.Pattern[str]
    openings: frozenset[str]

    def declined_at(self, words: Sequence[str]) -> int | None:
        """Return the index of the first word of a phrase that means neither, or None."""
        text = " ".join(words)
        match = self.neither.search(text)
        return text.count(" ", 0, match.start()) if match else None

    def complete_clauses(self, reply: str) -> set[bool]:
        """Return the meanings of the clauses that consist of phrases of one kind only."""
        kinds = set[bool]()
        for _, clause in split_clauses(reply):
            words = tuple(plain_text(clause).split())
            found = _find(words, self.replies)
            meanings = {phrase.is_yes for phrase in found}
            if len(meanings) == 1 and sum(phrase.num_words for phrase in found) == len(words):
                kinds |= meanings
        return kinds


def _find(words: Sequence[str], meanings: Mapping[_Words, bool]) -> list[_FoundPhrase]:
    """Return the phrases that occur, from left to right; the longest one at each word."""
    longest = max(len(phrase) for phrase in meanings)
    found, at = list[_FoundPhrase](), 0
    while at < len(words):
        phrases = (tuple(words[at : at + size]) for size in range(longest, 0, -1))
        phrase = next((phrase for phrase in phrases if phrase in meanings), ())
        if phrase:
            found.append(_FoundPhrase(at=at, num_words=len(phrase), is_yes=meanings[phrase]))
        at += len(phrase) or 1
    return found


def _meanings(yes: Sequence[str], no: Sequence[str]) -> dict[_Words, bool]:
    return dict.fromkeys(phrase_words(yes), True) | dict.fromkeys(phrase_words(no), False)

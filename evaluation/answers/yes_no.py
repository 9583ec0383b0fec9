"""Parsing of free replies to yes/no questions."""

import dataclasses
from collections.abc import Mapping
from enum import StrEnum

from core.errors import ConfigError
from evaluation.answers.rule import normalise_neutral

_Phrase = tuple[str, ...]


class YesNoPolicy(StrEnum):
    """The languages in which a yes or no is accepted."""

    ASKED_LANGUAGE = "asked_language"
    """The language of the question only: "yes" to a Basque question is unparsed."""
    ANY_LANGUAGE = "any_language"
    """Any language of the run."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class YesNoWords:
    """Words or phrases ("nac ydy") for yes and no in a language; case does not matter."""

    yes: tuple[str, ...]
    no: tuple[str, ...]


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

    def parse(self, reply: str, language: str) -> bool | None:
        """Return whether the reply means yes, or None if it means neither.

        A phrase at the beginning of the reply decides. Otherwise the reply must contain phrases of
        one kind only. If two phrases start at the same word, the longer one counts: Welsh "nac ydy"
        means no, "ydy" means yes.

        Raises:
            ConfigError: If the language has no words for yes and no.
        """
        meanings = self._meanings(language)
        longest = max(len(phrase) for phrase in meanings)
        words = tuple(normalise_neutral(reply).split())
        found, at = list[tuple[int, bool]](), 0
        while at < len(words):
            sizes = (size for size in range(longest, 0, -1) if words[at : at + size] in meanings)
            size = next(sizes, 0)
            if size:
                found.append((at, meanings[words[at : at + size]]))
            at += size or 1
        if found and found[0][0] == 0:
            return found[0][1]
        kinds = {is_yes for _, is_yes in found}
        return kinds.pop() if len(kinds) == 1 else None

    def _meanings(self, language: str) -> dict[_Phrase, bool]:
        own = self.words.get(language, YesNoWords(yes=(), no=()))
        if not own.yes or not own.no:
            raise ConfigError(
                f"no words for yes and no in '{language}'; add yes_words and no_words to "
                f"languages/{language}/prompts.yaml"
            )
        meanings: dict[_Phrase, bool] = {}
        if self.policy is YesNoPolicy.ANY_LANGUAGE:
            for words in self.words.values():
                meanings |= _phrase_meanings(words)
        # The language of the question takes precedence if two languages share a word.
        return meanings | _phrase_meanings(own)


def _phrase_meanings(words: YesNoWords) -> dict[_Phrase, bool]:
    return {
        tuple(normalise_neutral(phrase).split()): is_yes
        for phrases, is_yes in ((words.yes, True), (words.no, False))
        for phrase in phrases
    }

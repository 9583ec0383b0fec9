"""Words for parsing replies to multiple-choice questions, and the clauses of a reply."""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache

from core.chat.characters import is_in_word
from evaluation.answers.phrases import plain_text, split_clauses
from evaluation.answers.rule import normalise_neutral

_KEPT_AT_ENDS = frozenset("%")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceWords:
    """Words of a language; case and apostrophes do not matter."""

    answer_words: tuple[str, ...] = ()
    """Nouns that announce an option letter, such as "answer" and "option"."""
    filler_words: tuple[str, ...] = ()
    """Words that may stand between such a noun and the letter, such as "the" and "is"."""
    one_letter_words: tuple[str, ...] = ()
    """Words of one letter that are not option letters, such as "a"."""
    negations: tuple[str, ...] = ()
    """Words that reject what their clause states, such as "not" and "wrong"."""
    contrast_words: tuple[str, ...] = ()
    """Words that begin a new clause, such as "but"."""
    plural_endings: tuple[str, ...] = ()
    """Endings of regular plurals ("s"); a choice also matches with such an ending."""
    refusal_phrases: tuple[str, ...] = ()
    """Phrases of replies that decline to answer."""

    def announces(self, word: str) -> bool:
        """Return whether a plain word is an answer word."""
        return word in plain_set(self.answer_words)

    def is_known(self, word: str) -> bool:
        """Return whether a plain word is an answer word or a filler."""
        return self.announces(word) or word in plain_set(self.filler_words)

    def is_negation(self, word: str) -> bool:
        """Return whether a plain word rejects what its clause states."""
        return word in plain_set(self.negations)


NO_WORDS = ChoiceWords()
"""The words of a language without a file."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReplyWord:
    """A word of a reply in three spellings."""

    raw: str
    """Spelling of the reply, without marks around it."""
    neutral: str
    """Spelling after neutral normalisation."""
    plain: str
    """The neutral spelling without apostrophes, for comparison with word lists."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReplyClause:
    """The words between two punctuation marks or contrast words."""

    marks: str
    """The marks before the clause."""
    words: tuple[ReplyWord, ...]

    def is_negated(self, words: ChoiceWords) -> bool:
        """Return whether any word of the clause is a negation."""
        return any(words.is_negation(word.plain) for word in self.words)


def split_reply(reply: str, words: ChoiceWords) -> list[ReplyClause]:
    """Split a reply into clauses at its punctuation and its contrast words."""
    clauses = []
    for marks, text in split_clauses(reply):
        part: list[ReplyWord] = []
        for word in map(_reply_word, text.split()):
            if word.plain in plain_set(words.contrast_words):
                clauses.append(ReplyClause(marks=marks, words=tuple(part)))
                marks, part = "", []
            elif word.plain:
                part.append(word)
        clauses.append(ReplyClause(marks=marks, words=tuple(part)))
    return [clause for clause in clauses if clause.words]


def _reply_word(raw: str) -> ReplyWord:
    kept = [at for at, letter in enumerate(raw) if is_in_word(letter) or letter in _KEPT_AT_ENDS]
    bare = raw[kept[0] : kept[-1] + 1] if kept else ""
    return ReplyWord(raw=bare, neutral=normalise_neutral(bare), plain=plain_text(bare))


@lru_cache(maxsize=256)
def plain_set(words: Sequence[str]) -> frozenset[str]:
    """Return words as they appear in plain text."""
    return frozenset(plain_text(word) for word in words)

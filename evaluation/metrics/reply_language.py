"""Identification of the language of a reply, to measure whether models answer as they are asked.

Replies have one or two words, too few for a statistical identifier ("hiru" is taken for Hawaiian),
so the answers of the benchmark vote first. Decoding is never constrained to a language, because
fidelity is something to measure.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from evaluation.answers.rule import normalise_neutral
from evaluation.benchmarks.items import BenchmarkItem

SEPARATOR = "+"
"""Separates the languages of a reply that belongs to several ("en+eu")."""


class ReplyLanguage:
    """Identifies the language of short replies, among the languages of a run.

    1. A reply without letters belongs to no particular language: "3" counts for every language, an
       empty reply for none.
    2. If the whole reply is a known answer or choice, it belongs to the languages of that answer.
    3. Otherwise its words vote. A word counts for a language if it occurs only in answers of that
       language, and the majority decides.
    4. Otherwise py3langid decides, restricted to the languages of the run if it supports them all.
    """

    def __init__(self, items: Iterable[BenchmarkItem], languages: Sequence[str]) -> None:
        """Build the lexicon from the answers and choices of a benchmark."""
        self.languages = sorted(set(languages))
        self._phrases: dict[str, set[str]] = defaultdict(set)
        self._words: dict[str, set[str]] = defaultdict(set)
        for item in items:
            for answer in {*item.answers, *item.choices}:
                phrase = normalise_neutral(answer)
                self._phrases[phrase].add(item.language)
                for word in phrase.split():
                    self._words[word].add(item.language)

    def identify(self, reply: str) -> str:
        """Return the language of a reply.

        Several languages are joined by "+" in alphabetical order; an empty reply has none ("").
        """
        text = normalise_neutral(reply)
        if not text:
            return ""
        if not any(letter.isalpha() for letter in text):
            return SEPARATOR.join(self.languages)
        if known := self._phrases.get(text):
            return SEPARATOR.join(sorted(known))
        return self._vote(text.split()) or self._classify(text)

    def _vote(self, words: Sequence[str]) -> str | None:
        known = [self._words[word] for word in words if word in self._words]
        votes = Counter(next(iter(languages)) for languages in known if len(languages) == 1)
        ranked = votes.most_common(2)
        if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
            return None
        return ranked[0][0]

    def _classify(self, text: str) -> str:
        if len(self.languages) == 1:
            return self.languages[0]
        return str(self._identifier.classify(text)[0])

    @cached_property
    def _identifier(self) -> LanguageIdentifier:
        # A separate instance, because restricting the package's global one would affect its other
        # users.
        identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
        # With an unsupported language, a restricted identifier would assign every reply to one of
        # the supported ones, so it then chooses among all languages.
        if set(self.languages) <= set(identifier.labels):
            identifier.set_languages(self.languages)
        return identifier


def is_in_language(identified: str, asked: str) -> bool:
    """Return whether an identified reply can be in the language of the question."""
    return asked in identified.split(SEPARATOR)

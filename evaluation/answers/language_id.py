"""Which language a reply is in, and so whether the model answered in the one it was asked in.

Replies are a word or two, too short for a statistical identifier alone ("hiru" reads as Hawaiian),
so the benchmark's own answers vote first. Generation is never forced into a language: fidelity is
something to measure.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from evaluation.answers.registry import normalise_neutral
from evaluation.benchmarks.items import BenchmarkItem

SEPARATOR = "+"
"""Between the languages of a reply that belongs to several ("en+eu")."""


class ReplyLanguage:
    """Identifies the language of short replies, among the languages of a run.

    1. A reply without a letter ("3", "") belongs to no language in particular: "3" to all of
       them, an empty reply to none.
    2. The whole reply is a known answer or choice of some of the languages: those.
    3. Its words vote; a word counts for a language if it occurs in answers of that language only.
       A majority decides.
    4. py3langid, restricted to the languages of the run if it knows them all.
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
        """The language, or several joined by "+" in alphabetical order; "" for an empty reply."""
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
        # An instance of our own: the package's global one would be restricted for everybody.
        identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
        if set(self.languages) <= set(identifier.labels):
            identifier.set_languages(self.languages)
        # Otherwise it judges among all it knows: forced, it would give every reply to its own.
        return identifier


def is_in_language(identified: str, asked: str) -> bool:
    """Whether a reply identified so can be in the language it was asked in."""
    return asked in identified.split(SEPARATOR)

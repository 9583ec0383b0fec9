"""Ten accepted answers per open question, in the format of VQAv2's ten annotators.

They are derived from CLDR, not from annotators: one synonym, or a keyword that shares a word with
the name, gets four votes, up to two other keywords get one each, and the name gets the remaining
votes (at least four). Colours, keywords of too many concepts, and keywords that the language file
lists as no answer are excluded.
"""

from collections import Counter

from data_prep.embedded.concepts import Catalogue, Lexicon, lemmas

NUM_ANSWERS = 10

_FULL_VOTES = 4
_MAX_SINGLE_VOTES = 2
_MAX_SHARING = 10
"""Keywords of more concepts than this are too general."""


def equal_answers(answer: str) -> list[str]:
    """Return ten equal answers, for yes/no, numbers and categories."""
    return [answer] * NUM_ANSWERS


class Voter:
    """Generator of ten answers to "What is this?" in one language."""

    def __init__(self, catalogue: Catalogue, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self._language = lexicon.language
        self._codepoints = [concept.codepoints for concept in catalogue.concepts]
        self._uses = Counter(
            lemmas(word, self._language) for words in lexicon.keywords for word in words
        )
        self._too_general = {lemmas(word, self._language) for word in self._language.not_answers}
        for answer, _ in self._language.categories.values():
            self._too_general.add(lemmas(answer, self._language))

    def name_answers(self, concept: int) -> list[str]:
        """Return ten answers, with the name first."""
        name = self.lexicon.names[concept]
        synonyms = list(self._language.synonyms.get(self._codepoints[concept], ()))
        words = [word for word in self._specific_keywords(concept) if word not in synonyms]
        sharing = [word for word in words if self._shares_word(word, name)]
        full = [*synonyms, *sharing][:1]
        single = [word for word in [*synonyms, *words] if word not in full][:_MAX_SINGLE_VOTES]
        votes = [word for word in full for _ in range(_FULL_VOTES)] + single
        return [name] * (NUM_ANSWERS - len(votes)) + votes

    def _specific_keywords(self, concept: int) -> list[str]:
        found = []
        odd = self._language.odd_keywords.get(self._codepoints[concept], frozenset())
        for word in self.lexicon.keywords[concept]:
            if word in odd:
                continue
            stems = lemmas(word, self._language)
            if stems not in self._too_general and self._uses[stems] <= _MAX_SHARING:
                found.append(word)
        return found

    def _shares_word(self, word: str, name: str) -> bool:
        named = set(lemmas(name, self._language))
        return bool(set(lemmas(word, self._language)) & named)

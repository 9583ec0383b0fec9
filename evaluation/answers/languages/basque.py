"""Answer rules for Basque, used by the language-aware score.

The official English rules turn "TB-a" into "tb" (the case ending is taken for an article) and "3,5"
into "35". These rules keep the decimal comma and hyphenated endings, convert Basque numerals to
digits and drop no words. The relaxed rule also matches the definite and the bare form of a noun, as
the English rules ignore a/an/the.
"""

from functools import lru_cache

from evaluation.answers.rule import AnswerRule, AnswerRules, normalise_neutral

_NUMERALS = {
    word: str(value)
    for value, word in enumerate(
        ["zero", "bat", "bi", "hiru", "lau", "bost", "sei", "zazpi", "zortzi", "bederatzi", "hamar"]
    )
} | {"huts": "0"}

_INDEFINITE = "bat"
_MIN_STEM_LENGTH = 2
_VOWELS = frozenset("aeiou")


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """Apply the neutral normalisation and convert numerals to digits.

    "bat" is both "one" and the indefinite article ("etxe bat"), so it counts as a numeral only if
    it is the whole answer.
    """
    words = normalise_neutral(text).split()
    if words == [_INDEFINITE]:
        return _NUMERALS[_INDEFINITE]
    return " ".join(word if word == _INDEFINITE else _NUMERALS.get(word, word) for word in words)


@lru_cache(maxsize=1 << 16)
def definite_forms(answer: str) -> frozenset[str]:
    """Return the answer and the possible forms of its last word without -a or -ak.

    -a is removed. -ak is removed, or shortened to an -a that belongs to the stem (neskak: neska). A
    double r that only the ending requires becomes single (txakurra: txakur). A hyphen before the
    ending is removed (TB-a: tb). A stem has at least two letters and a vowel.

    Two answers match if any of their forms agree, so words that differ only in a final -a of the
    stem (bar, barra) match as well. A rule without a dictionary can't tell them apart.
    """
    head, _, last = answer.rpartition(" ")
    stems = {last}
    for ending in ("ak", "a"):
        if last.endswith(ending):
            stems |= _possible_stems(last[: -len(ending)])
    if last.endswith("ak"):
        stems.add(last.removesuffix("k"))
    return frozenset(f"{head} {stem}".strip() for stem in stems)


def _possible_stems(stem: str) -> set[str]:
    if stem.endswith("-") and len(stem) > _MIN_STEM_LENGTH:
        return {stem.removesuffix("-")}
    if len(stem) < _MIN_STEM_LENGTH or _VOWELS.isdisjoint(stem):
        return set()
    return {stem, stem.removesuffix("r")} if stem.endswith("rr") else {stem}


RULES = AnswerRules(
    strict=AnswerRule(normalise=normalise),
    relaxed=AnswerRule(normalise=normalise, forms=definite_forms),
)

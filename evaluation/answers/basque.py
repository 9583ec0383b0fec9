"""Answer normalisation that respects Basque, for the score beside the official one.

The official English rules turn "TB-a" into "tb" (the case ending reads as an article) and "3,5"
into "35". Here the decimal comma and a hyphenated ending stay, Basque numerals become digits, no
word is dropped, and the definite and the bare form may be matched as English ignores a/an/the.
"""

from functools import lru_cache

from evaluation.answers.registry import AnswerRule, normalise_neutral, register

NUMERALS = {
    word: str(value)
    for value, word in enumerate(
        ["zero", "bat", "bi", "hiru", "lau", "bost", "sei", "zazpi", "zortzi", "bederatzi", "hamar"]
    )
} | {"huts": "0"}

_INDEFINITE = "bat"
_MIN_STEM = 2
_VOWELS = frozenset("aeiou")


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """Neutral normalisation, then numerals to digits.

    "bat" is both "one" and the indefinite article ("etxe bat"), so it counts as a numeral only
    where it is the whole answer.
    """
    words = normalise_neutral(text).split()
    if words == [_INDEFINITE]:
        return NUMERALS[_INDEFINITE]
    return " ".join(word if word == _INDEFINITE else NUMERALS.get(word, word) for word in words)


@lru_cache(maxsize=1 << 16)
def definite_forms(answer: str) -> frozenset[str]:
    """The answer itself, and what its last word may be without -a or -ak.

    -a goes; -ak goes, or leaves an -a that belongs to the stem (neskak: neska); a doubled r that
    only the ending called for is written once (txakurra: txakur); a hyphen before the ending goes
    (TB-a: tb). A stem has at least two letters and a vowel. Two answers match when any of their
    forms agree, so words that differ in a final -a of the stem (bar, barra) match as well: the
    price of a rule without a dictionary.
    """
    head, _, last = answer.rpartition(" ")
    stems = {last}
    for ending in ("ak", "a"):
        if last.endswith(ending):
            stems |= _stems(last[: -len(ending)])
    if last.endswith("ak"):
        stems.add(last.removesuffix("k"))
    return frozenset(f"{head} {stem}".strip() for stem in stems)


def _stems(stem: str) -> set[str]:
    if stem.endswith("-") and len(stem) > _MIN_STEM:
        return {stem.removesuffix("-")}
    if len(stem) < _MIN_STEM or _VOWELS.isdisjoint(stem):
        return set()
    return {stem, stem.removesuffix("r")} if stem.endswith("rr") else {stem}


register(
    "basque",
    strict=AnswerRule(normalise=normalise),
    relaxed=AnswerRule(normalise=normalise, forms=definite_forms),
)

"""Answer rules for Basque, used by the language-aware score.

The official English rules turn "TB-a" into "tb" (the case ending is taken for an article) and "3,5"
into "35". These rules keep hyphenated endings, write numbers and percentages in one way and drop no
words. The relaxed rule also matches the definite, the indefinite and the bare form of a noun, as
the English rules ignore a/an/the.
"""

import re
from functools import lru_cache

from evaluation.answers.rule import AnswerRule, AnswerRules, normalise_neutral, unify_numbers

_UP_TO_NINETEEN = ["zero", "bat", "bi", "hiru", "lau", "bost", "sei", "zazpi", "zortzi"]
_UP_TO_NINETEEN += ["bederatzi", "hamar", "hamaika", "hamabi", "hamahiru", "hamalau", "hamabost"]
_UP_TO_NINETEEN += ["hamasei", "hamazazpi", "hemezortzi", "hemeretzi"]
_SCORES = {"hogei": 20, "berrogei": 40, "hirurogei": 60, "laurogei": 80}
_NUMERALS = (
    {word: value for value, word in enumerate(_UP_TO_NINETEEN)}
    | _SCORES
    | {f"{score}tamar": value + 10 for score, value in _SCORES.items()}
    | {"huts": 0, "ehun": 100}
)
_ADDING = {f"{score}ta": value for score, value in _SCORES.items()}
"""First words of compound numerals: "hogeita bat" (20 + 1), "hogeita hamaika" (20 + 11)."""

_INDEFINITE = "bat"
_INDEFINITE_ENDINGS = (" bat", " batzuk")
_PERCENT = re.compile(r"(?<!\S)ehuneko (\d+(?:\.\d+)?)(?![\d.])")
_MIN_STEM_LENGTH = 2
_VOWELS = frozenset("aeiou")


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """Apply the neutral normalisation, convert numerals to digits and unify numbers.

    Numerals up to 100 are known. "bat" is both "one" and the indefinite article ("etxe bat"), so it
    counts as a numeral only if it is the whole answer or ends a compound ("hogeita bat").
    "ehuneko 50", "%50" and "50 %" become "50%".
    """
    words = normalise_neutral(text).split()
    converted, at = list[str](), 0
    while at < len(words):
        number, size = _read_numeral(words[at : at + 2], is_whole=len(words) == 1)
        converted.append(words[at] if number is None else str(number))
        at += size
    return _PERCENT.sub(r"\1%", unify_numbers(" ".join(converted)))


def _read_numeral(words: list[str], *, is_whole: bool) -> tuple[int | None, int]:
    """Return the number at the beginning of some words, or None, and how many words it takes."""
    following = _NUMERALS.get(words[1], 0) if len(words) > 1 else 0
    if words[0] in _ADDING and 0 < following < 20:  # noqa: PLR2004 - scores count to nineteen
        return _ADDING[words[0]] + following, 2
    if words[0] == _INDEFINITE and not is_whole:
        return None, 1
    return _NUMERALS.get(words[0]), 1


@lru_cache(maxsize=1 << 16)
def definite_forms(answer: str) -> frozenset[str]:
    """Return the answer and the possible bare forms of its last word.

    A final "bat" or "batzuk" (a, some) is dropped after a noun (txakur bat: txakur). -a is removed.
    -ak is removed, or shortened to an -a that belongs to the stem (neskak: neska). A double r that
    only the ending requires becomes single (txakurra: txakur). A hyphen before the ending is
    removed (TB-a: tb). A stem is a number or has at least two letters and a vowel. A stem that is a
    numeral also counts as digits (laua: 4).

    Two answers match if any of their forms agree, so words that differ only in a final -a of the
    stem (bar, barra) match as well. A rule without a dictionary can't tell them apart.
    """
    forms = _bare_forms(answer)
    for ending in _INDEFINITE_ENDINGS:
        if answer.endswith(ending):
            forms |= _bare_forms(answer.removesuffix(ending))
    return frozenset(forms)


def _bare_forms(answer: str) -> set[str]:
    head, _, last = answer.rpartition(" ")
    stems = {last}
    for ending in ("ak", "a"):
        if last.endswith(ending):
            stems |= _possible_stems(last[: -len(ending)])
    if last.endswith("ak"):
        stems.add(last.removesuffix("k"))
    return {f"{head} {stem}".strip() for stem in stems}


def _possible_stems(stem: str) -> set[str]:
    if stem.rstrip("%-")[-1:].isdigit():
        return {stem.rstrip("-")}
    if stem.endswith("-") and len(stem) > _MIN_STEM_LENGTH:
        return {stem.removesuffix("-")}
    if len(stem) < _MIN_STEM_LENGTH or _VOWELS.isdisjoint(stem):
        return set()
    # hirurak and laurak (all three, all four) have an r that the numeral lacks.
    number = _NUMERALS.get(stem, _NUMERALS.get(stem.removesuffix("r")))
    stems = {stem, stem.removesuffix("r")} if stem.endswith("rr") else {stem}
    return stems if number is None else stems | {str(number)}


RULES = AnswerRules(
    strict=AnswerRule(normalise=normalise),
    relaxed=AnswerRule(normalise=normalise, forms=definite_forms),
)

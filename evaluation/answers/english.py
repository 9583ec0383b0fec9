"""The VQA challenge's answer normaliser for English, with every quirk of the published program.

Scores are comparable with the literature only if this agrees to the last digit, so known slips of
the original are kept and named where they are. The lists are those of VQAEval (A. Agrawal,
GT-Vision-Lab/VQA at a013f00, BSD-2); the behaviour is re-stated from its rules.
"""

import re
from functools import lru_cache

from evaluation.answers.registry import AnswerRule, register

PUNCTUATION_MARKS = ';/[]"{}()=+\\_-><@`,?!'
"""21 marks. Apostrophe, colon and full stop are not among them."""

MAX_FULL_STOPS = 32
"""The original passes `re.UNICODE` (32) where `re.sub` expects its count, so the 33rd full stop
survives."""

NUMERALS = {
    word: str(value)
    for value, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
} | {"none": "0"}

ARTICLES = frozenset({"a", "an", "the"})

# The original also lists I'm, I've and I'd've, which never match: the text is lower-cased first.
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll
    you're you've
"""


def _one_apostrophe_short(form: str) -> list[str]:
    """Every spelling that lacks exactly one apostrophe: the keys of the published list."""
    return [form[:at] + form[at + 1 :] for at, letter in enumerate(form) if letter == "'"]


CONTRACTIONS = {
    short: form for form in _CONTRACTED.split() for short in _one_apostrophe_short(form)
}
# The one entry of the original that points the other way.
CONTRACTIONS["somebody'd"] = "somebodyd"

_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
# The original's look-behind is mistyped as `(?!<=\d)`, which is always true: only what follows
# the full stop decides, so "5." loses it although a digit stands before.
_FULL_STOP = re.compile(r"\.(?!\d)")


def join_lines(text: str) -> str:
    """Newlines and tabs become spaces, the ends are stripped: done to every string, always."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def strip_punctuation(text: str) -> str:
    """Delete or blank the 21 marks, then delete full stops that no digit follows.

    Whether a mark is deleted or blanked is decided by the text as it came in: a mark that touches
    a space anywhere in it, or a digit-comma-digit anywhere in it, deletes every occurrence.
    """
    has_digit_comma = _DIGIT_COMMA_DIGIT.search(text) is not None
    stripped = text
    for mark in PUNCTUATION_MARKS:
        is_beside_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if is_beside_space or has_digit_comma else " ")
    return _FULL_STOP.sub("", stripped, count=MAX_FULL_STOPS)


def map_words(text: str) -> str:
    """Lower-case, numerals to digits, articles out, apostrophes of contractions back in."""
    words = [NUMERALS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """The whole official normalisation of one prediction or answer."""
    return map_words(strip_punctuation(join_lines(text)))


register("english", strict=AnswerRule(normalise=normalise))

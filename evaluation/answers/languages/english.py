"""Answer rules of the VQA challenge for English, with every quirk of the published program.

Scores are comparable with the literature only if they agree to the last digit, so known bugs of the
original are kept and marked as such. The word lists are those of VQAEval (A. Agrawal,
GT-Vision-Lab/VQA at a013f00, BSD-2); the behaviour is reimplemented from its rules.
"""

import re
from functools import lru_cache

from evaluation.answers.rule import AnswerRule, AnswerRules

PUNCTUATION_MARKS = ';/[]"{}()=+\\_-><@`,?!'
"""The 21 marks of the original, which omits the apostrophe, the colon and the full stop."""

MAX_FULL_STOPS = 32
"""The original passes `re.UNICODE` (32) as the `count` of `re.sub`, so it keeps the 33rd full
stop."""

_NUMERALS = {
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
    """Return the spellings without exactly one apostrophe, the keys of the published list."""
    return [form[:at] + form[at + 1 :] for at, letter in enumerate(form) if letter == "'"]


CONTRACTIONS = {
    short: form for form in _CONTRACTED.split() for short in _one_apostrophe_short(form)
}
# In the original this is the only entry that removes an apostrophe.
CONTRACTIONS["somebody'd"] = "somebodyd"

_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_DIGIT_COMMAS_DIGIT = re.compile(r"\d,+\d")
"""The pattern of lmms-eval, which also finds several commas in a row."""
# The original's look-behind is mistyped as `(?!<=\d)`, which always matches. Only the character
# after the full stop matters, so the full stop of "5." is removed despite the digit before it.
_FULL_STOP = re.compile(r"\.(?!\d)")


def join_lines(text: str) -> str:
    """Replace newlines and tabs by spaces and strip both ends; always applied to every string."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def strip_punctuation(text: str, *, digit_comma: re.Pattern[str] = _DIGIT_COMMA_DIGIT) -> str:
    """Delete the 21 marks or replace them by spaces, then delete full stops not before a digit.

    A mark is deleted everywhere if it is next to a space anywhere in the original text, or if the
    text contains `digit_comma`, a comma between two digits. Otherwise each occurrence becomes a
    space.
    """
    has_digit_comma = digit_comma.search(text) is not None
    stripped = text
    for mark in PUNCTUATION_MARKS:
        is_beside_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if is_beside_space or has_digit_comma else " ")
    return _FULL_STOP.sub("", stripped, count=MAX_FULL_STOPS)


def map_words(text: str) -> str:
    """Lower-case, convert numerals to digits, drop articles and restore apostrophes."""
    words = [_NUMERALS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """Apply the complete official normalisation to a prediction or an answer."""
    return map_words(strip_punctuation(join_lines(text)))


@lru_cache(maxsize=1 << 16)
def normalise_lmms(text: str) -> str:
    """Apply the normalisation of lmms-eval, which differs for several commas between digits only.

    Source: `EvalAIAnswerProcessor` of EvolvingLMMs-Lab/lmms-eval at 75571cf.
    """
    return map_words(strip_punctuation(join_lines(text), digit_comma=_DIGIT_COMMAS_DIGIT))


_RULE = AnswerRule(normalise=normalise)
RULES = AnswerRules(strict=_RULE, relaxed=_RULE)

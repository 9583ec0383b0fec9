"""Independent implementation of the official VQA accuracy and lmms-eval's, for comparison only.

It follows the published rules one character or word at a time, without regular expressions and
without code of `evaluation/`. Both implementations must agree to the last digit.
"""

import unicodedata
from functools import lru_cache

_MARKS = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@"]
_MARKS += ["`", ",", "?", "!"]

_COUNTED = {"none": 0, "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_COUNTED |= {"six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}

# Pairs of misspelling and spelling: all keys of the published list that can match lower-case text.
_PAIRS = """
aint ain't / arent aren't / cant can't / couldve could've / couldnt couldn't /
couldn'tve couldn't've / couldnt've couldn't've / didnt didn't / doesnt doesn't / dont don't /
hadnt hadn't / hadnt've hadn't've / hadn'tve hadn't've / hasnt hasn't / havent haven't / hed he'd /
hed've he'd've / he'dve he'd've / hes he's / howd how'd / howll how'll / hows how's / isnt isn't /
itd it'd / itd've it'd've / it'dve it'd've / itll it'll / let's let's / maam ma'am /
mightnt mightn't / mightnt've mightn't've / mightn'tve mightn't've / mightve might've /
mustnt mustn't / mustve must've / neednt needn't / notve not've / oclock o'clock /
oughtnt oughtn't / ow's'at 'ow's'at / 'ows'at 'ow's'at / 'ow'sat 'ow's'at / shant shan't /
shed've she'd've / she'dve she'd've / she's she's / shouldve should've / shouldnt shouldn't /
shouldnt've shouldn't've / shouldn'tve shouldn't've / somebody'd somebodyd /
somebodyd've somebody'd've / somebody'dve somebody'd've / somebodyll somebody'll /
somebodys somebody's / someoned someone'd / someoned've someone'd've / someone'dve someone'd've /
someonell someone'll / someones someone's / somethingd something'd /
somethingd've something'd've / something'dve something'd've / somethingll something'll /
thats that's / thered there'd / thered've there'd've / there'dve there'd've / therere there're /
theres there's / theyd they'd / theyd've they'd've / they'dve they'd've / theyll they'll /
theyre they're / theyve they've / twas 'twas / wasnt wasn't / wed've we'd've / we'dve we'd've /
weve we've / werent weren't / whatll what'll / whatre what're / whats what's / whatve what've /
whens when's / whered where'd / wheres where's / whereve where've / whod who'd /
whod've who'd've / who'dve who'd've / wholl who'll / whos who's / whove who've / whyll why'll /
whyre why're / whys why's / wont won't / wouldve would've / wouldnt wouldn't /
wouldnt've wouldn't've / wouldn'tve wouldn't've / yall y'all / yall'll y'all'll /
y'allll y'all'll / yall'd've y'all'd've / y'alld've y'all'd've / y'all'dve y'all'd've / youd you'd /
youd've you'd've / you'dve you'd've / youll you'll / youre you're / youve you've
"""
SPELLING = dict(pair.split() for pair in _PAIRS.split("/"))


def score(prediction: str, answers: list[str]) -> float:
    """Return the accuracy of one item."""
    reply = _one_line(prediction)
    humans = [_one_line(answer) for answer in answers]
    unanimous = all(human == humans[0] for human in humans)
    if not unanimous:
        reply = normal(reply)
        humans = [normal(human) for human in humans]
    return _leave_one_out(reply, humans)


def lmms_score(prediction: str, answers: list[str]) -> float:
    """Return the accuracy of one item as lmms-eval computes it, which always normalises."""
    reply, *humans = [_lmms_normal(_one_line(text)) for text in (prediction, *answers)]
    return _leave_one_out(reply, humans)


@lru_cache  # several humans give the same answer
def _lmms_normal(text: str) -> str:
    return _normalise_words(_without_full_stops(_without_marks(text, several_commas=True)))


def _leave_one_out(reply: str, humans: list[str]) -> float:
    total = 0.0
    for left_out in range(len(humans)):
        agreeing = 0
        for other, human in enumerate(humans):
            if other != left_out and human == reply:
                agreeing += 1
        total += 1 if agreeing >= 3 else agreeing / 3
    return total / len(humans)


@lru_cache
def normal(text: str) -> str:
    """Normalise punctuation, then words."""
    return _normalise_words(_without_full_stops(_without_marks(text)))


def _one_line(text: str) -> str:
    letters = [" " if letter in ("\n", "\t") else letter for letter in text]
    while letters and letters[0].isspace():
        letters.pop(0)
    while letters and letters[-1].isspace():
        letters.pop()
    return "".join(letters)


def _is_digit(letter: str) -> bool:
    return unicodedata.category(letter) == "Nd"


def _without_marks(text: str, *, several_commas: bool = False) -> str:
    deletes = dict.fromkeys(_MARKS, False)
    previous = beforehand = "x"
    for letter in text:
        if several_commas and letter == previous == ",":
            continue
        if previous == "," and _is_digit(beforehand) and _is_digit(letter):
            deletes = dict.fromkeys(_MARKS, True)
        if letter == " " and previous in deletes:
            deletes[previous] = True
        if previous == " " and letter in deletes:
            deletes[letter] = True
        beforehand, previous = previous, letter
    kept = []
    for letter in text:
        if letter not in deletes:
            kept.append(letter)
        elif not deletes[letter]:
            kept.append(" ")
    return "".join(kept)


def _without_full_stops(text: str) -> str:
    kept, budget = [], 32
    for position, letter in enumerate(text):
        is_followed = position + 1 < len(text) and _is_digit(text[position + 1])
        if letter == "." and not is_followed and budget > 0:
            budget -= 1
        else:
            kept.append(letter)
    return "".join(kept)


def _normalise_words(text: str) -> str:
    words, word = [], ""
    for letter in text.lower() + " ":
        if not letter.isspace():
            word += letter
            continue
        if word in _COUNTED:
            word = str(_COUNTED[word])
        if word and word not in ("a", "an", "the"):
            words.append(SPELLING.get(word, word))
        word = ""
    return " ".join(words)

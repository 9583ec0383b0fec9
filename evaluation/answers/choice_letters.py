"""Option letters that a reply states, such as "B", "(b) blue" and "The answer is B."."""

import re
from collections.abc import Callable, Sequence

from evaluation.answers.choice_words import ChoiceWords, ReplyClause, ReplyWord

_LETTER = re.compile(r"[a-z](?:-[a-z]{1,2})?")
"""A letter, which may have an ending as in Basque "B-a"."""
_OPENING_MARKS = frozenset(':\n([{*<"`')


def stated_letters(
    clauses: Sequence[ReplyClause],
    words: ChoiceWords,
    num_choices: int,
    names_choice: Callable[[str, int], bool],
) -> set[int]:
    """Return the indexes of the letters that a reply states or mentions; more than one is unclear.

    A letter is stated by

    * a clause of its own at the beginning, after a mark such as ":" or "(", or after a clause of
      answer words and fillers only;
    * a clause that otherwise consists of answer words and fillers ("the answer is B");
    * a capital after an answer word at the beginning of a clause ("the answer is B because ...");
    * a capital at the beginning of a clause, before the text of its choice ("B blue").

    Any other capital that is an option letter counts as well if a letter is stated, except in a
    negated clause ("B, not C"). Without a stated letter the result is empty.

    Args:
        clauses: The clauses of the reply.
        words: Words of the language.
        num_choices: The number of choices.
        names_choice: Returns whether a text names the choice with an index.
    """
    stated, mentioned, is_after_letter = set[int](), set[int](), False
    for at, clause in enumerate(clauses):
        if len(clause.words) == 1 and (index := _letter_index(clause.words[0])) is not None:
            is_announced = at == 0 or all(words.is_known(w.plain) for w in clauses[at - 1].words)
            if is_announced or is_after_letter or not _OPENING_MARKS.isdisjoint(clause.marks):
                stated.add(index)
                is_after_letter = True
                continue
        is_after_letter = False
        if clause.is_negated(words):
            continue
        letters = {
            position: index
            for position, word in enumerate(clause.words)
            if (index := _letter_index(word)) is not None and index < num_choices
        }
        capitals = {
            position: index
            for position, index in letters.items()
            if clause.words[position].raw[0].isupper()
            and (position > 0 or not _is_word(clause.words[0], words))
        }
        mentioned |= set(capitals.values())
        for position, index in letters.items():
            if _is_stated(clause.words, position, words, others=len(capitals.keys() - {position})):
                stated.add(index)
        first = letters.get(0)
        rest = " ".join(word.neutral for word in clause.words[1:])
        if first is not None and clause.words[0].raw[0].isupper() and names_choice(rest, first):
            stated.add(first)
    return stated | mentioned if stated else stated


def _is_stated(
    clause: Sequence[ReplyWord], position: int, words: ChoiceWords, *, others: int
) -> bool:
    letter, before, after = clause[position], clause[:position], clause[position + 1 :]
    is_capital = letter.raw[0].isupper()
    if all(words.is_known(word.plain) for word in (*before, *after)):
        if not _is_word(letter, words):
            return True
        if not is_capital:  # "option a", but not "the answer is a"
            return not after and bool(before) and words.announces(before[-1].plain)
        return bool(before) or not words.announces(after[0].plain)  # not "A letter"
    is_announced = any(words.announces(word.plain) for word in before)
    is_begun = is_announced and all(words.is_known(word.plain) for word in before)
    return is_capital and is_begun and not others


def _is_word(letter: ReplyWord, words: ChoiceWords) -> bool:
    return letter.plain in words.one_letter_words


def _letter_index(word: ReplyWord) -> int | None:
    return ord(word.neutral[0]) - ord("a") if _LETTER.fullmatch(word.neutral) else None

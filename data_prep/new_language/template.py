"""Text of the files of a new language: what is known, and empty places for the rest.

An empty place is `""`, followed on its line by the English text that belongs there. The readers of
language files reject empty texts, so a folder can't be used by mistake before it is finished.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core.languages import ANSWERS, DATA, FOLDER, PROMPTS, TRANSLATION, language_file
from core.yaml_text import read_yaml
from data_prep.embedded.wordings import MAX_COUNT, MODEL_LANGUAGE
from data_prep.new_language.facts import LanguageFacts

TYPOLOGY = "about.yaml"
HELP: dict[str, str] = {
    DATA: """\
Wordings of the questions, from which the embedded data are built. Names of objects come from
Unicode CLDR and are inserted as they are, so choose wordings in which a name can stand after a
colon, without case or gender. If a wording depends on the number of the name, write a list of two:
["for a singular name", "for a plural name"]. Keep placeholders such as {name}.""",
    PROMPTS: """\
How replies are read, and how instruction-tuned models are asked. Without words for yes and no,
yes/no benchmarks can't be scored. Lists in [] may stay empty; a list of refusals keeps "I don't
know" from counting as a wrong answer of another kind (languages/README.md).""",
    ANSWERS: """\
When two answers are equal: number words from 0 on (one word each), words for percent, and articles
that may begin an answer. Every list may stay empty.""",
    TRANSLATION: """\
The prompt of a translating language model. Only `data_prep.prepare` with an endpoint needs it.""",
    TYPOLOGY: """\
Script, family and relatedness to English. Only `experiments.languages`, which compares several
languages, needs it.""",
}
"""File -> what it is for and how to fill it in."""
_EXAMPLES = (
    "A dog is sleeping on the red sofa.",
    "How many people are there in the picture?",
    "What is the capital of France?\nA. Paris\nB. Lyon",
)
_SYSTEM = """\
  You translate from English into {name}. Write only the translation, nothing before or after it.
  Keep numbers, code, markup, web addresses, formulas and the letters of options exactly as they
  are. Write what a careful native speaker would write, not word for word."""
_PROMPT_LISTS = {
    "yes_replies": "right, correct, that is true",
    "no_replies": "wrong, not true",
    "undecided_phrases": "maybe, it depends",
    "refusal_phrases": "I don't know, I can't see, it is not clear, no picture",
    "answer_words": "answer, option, letter",
    "filler_words": "is, the, correct",
    "negations": "no, not, never",
    "contrast_words": "but",
}
_KINDS = ("vqa", "mc", "capqa", "da", "open", "wild")
_QUESTION = "{question}"


def quote(text: str) -> str:
    """Return a text in double quotes, for YAML."""
    return json.dumps(text, ensure_ascii=False)


def write_files(facts: LanguageFacts) -> dict[str, str]:
    """Return file name -> text of the folder of a language."""
    writers = {
        DATA: _write_data,
        PROMPTS: _write_prompts,
        ANSWERS: _write_answers,
        TRANSLATION: _write_translation,
        TYPOLOGY: _write_about,
    }
    return {name: _heading(facts, name) + write(facts) for name, write in writers.items()}


def _heading(facts: LanguageFacts, name: str) -> str:
    first = f"{facts.english_name}, begun with data_prep.new_language. Not reviewed by a speaker."
    lines = [first, *HELP[name].splitlines()]
    lines.append('Replace every "" by the translation of the English text behind it.')
    return "".join(f"# {line}\n" for line in lines)


def _entry(key: str, value: str, english: str) -> str:
    return f"{key}: {quote(value)}{_comment([english])}\n"


def _comment(english: Sequence[str]) -> str:
    return "  # " + " | ".join(quote(text)[1:-1].replace('\\"', '"') for text in english)


def _list(words: Iterable[str]) -> str:
    return "[" + ", ".join(quote(word) for word in words) + "]"


def _singular(phrase: Any) -> str:
    return phrase if isinstance(phrase, str) else str(phrase[0])


def _write_data(facts: LanguageFacts) -> str:
    english = read_yaml(language_file(MODEL_LANGUAGE, DATA, FOLDER))
    numbers = (*facts.numerals[1 : MAX_COUNT + 1], *[""] * MAX_COUNT)[:MAX_COUNT]
    help_pages = f"{{package: {facts.help_package}, folder: {facts.help_folder}}}"
    text = [
        _entry("name", facts.own_name, "the language's name for itself"),
        f"cldr: {facts.cldr}  # locale of the names of objects in Unicode CLDR\n",
        f"help: {help_pages if facts.help_package else 'null'}  # Debian package of help pages\n",
        "article_endings: []  # optional list, with commas: endings that carry the article\n",
        _entry('"yes"', facts.yes, "yes"),
        _entry('"no"', facts.no, "no"),
        f"numbers: {_list(numbers)}{_comment(english['numbers'])}\n",
    ]
    for section in ("categories", "places"):
        text.append(f"\n{section}:  # as an answer | inside a question\n" if section == "categories"
                    else f"\n{section}:  # inside a question | as a label\n")  # fmt: skip
        for key, pair in english[section].items():
            text.append(f"  {key}: {_list(['', ''])}{_comment(pair)}\n")
    text.append("\nrelations:\n")
    for key, phrase in english["relations"].items():
        text.append(f"  {_entry(key, '', _singular(phrase))}")
    text.append("\nquestions:\n")
    for kind, wordings in english["questions"].items():
        text.append(f"  {kind}:\n")
        text += [f"    - {quote('')}{_comment([_singular(one)])}\n" for one in wordings]
    text.append("\nnot_answers: []  # optional list, with commas: animal, food, red, blue\n")
    text.append("synonyms: {}\n")
    return "".join(text) + _write_names(facts)


def _write_names(facts: LanguageFacts) -> str:
    """Return places for the names that CLDR lacks; they are comments, so any may stay unwritten."""
    if not facts.unnamed:
        return ""
    lines = [
        "",
        f"# CLDR has no name of these {len(facts.unnamed)} objects. An object without a name is",
        "# left out of the data; to name one, remove the `# ` before it and before `names:`.",
        "# names:",
        *(f'#   {quote(key)}: ""{_comment([name])}' for key, name in facts.unnamed.items()),
    ]
    return "".join(f"{line}\n" for line in lines)


def _write_prompts(facts: LanguageFacts) -> str:
    english = read_yaml(language_file(MODEL_LANGUAGE, PROMPTS, FOLDER))["styles"]["instructed"]
    text = [
        f"yes_words: {_list([facts.yes])}{_comment(['yes'])}\n",
        f"no_words: {_list([facts.no])}{_comment(['no'])}\n",
    ]
    for key, examples in _PROMPT_LISTS.items():
        text.append(f"{key}: []  # optional list, with commas: {examples}\n")
    text.append("styles:\n  bare:\n")
    text += [f"    {kind}: {quote(_QUESTION)}\n" for kind in _KINDS]
    text.append("  instructed:\n")
    for kind in _KINDS:
        if kind == "capqa":  # asked in the words of vqa, as in the folders of other languages
            text.append(f"    {_entry(kind, '', english['vqa'])}")
        elif english[kind] == _QUESTION:
            text.append(f"    {kind}: {quote(_QUESTION)}\n")
        else:
            text.append(f"    {_entry(kind, '', english[kind])}")
    return "".join(text)


def single_words(numerals: Sequence[str]) -> list[str]:
    """Return number words as answers are compared: one word each, without a common particle."""
    parts = [word.split() for word in numerals]
    if parts and all(len(words) > 1 and words[0] == parts[0][0] for words in parts):
        parts = [words[1:] for words in parts]
    first = next((number for number, words in enumerate(parts) if len(words) > 1), len(parts))
    return [words[0] for words in parts[:first]]


def _write_answers(facts: LanguageFacts) -> str:
    numerals, more = _list(single_words(facts.numerals)), _mapping(facts.more_numerals)
    return (
        f"numerals: {numerals}  # optional list, with commas: zero, one\n"
        f"more_numerals: {more}  # other forms, and tens: {{twenty: 20}}\n"
        "percent_words: []  # optional list, with commas: percent, per cent\n"
        "articles: []  # optional list, with commas: the, a, an\n"
    )


def _mapping(values: Mapping[str, int]) -> str:
    return "{" + ", ".join(f"{quote(word)}: {number}" for word, number in values.items()) + "}"


def _write_translation(facts: LanguageFacts) -> str:
    text = [f"name: {facts.english_name}\nsystem: >-\n{_SYSTEM.format(name=facts.english_name)}\n"]
    text.append("examples:\n")
    for source in _EXAMPLES:
        text.append(f"  - source: {quote(source)}\n    {_entry('translation', '', source)}")
    words = f'"yes": {quote(facts.yes)}, "no": {quote(facts.no)}'
    return "".join(text) + f"words: {{{words}}}{_comment(['yes', 'no'])}\n"


def _write_about(facts: LanguageFacts) -> str:
    return (
        _entry("script", facts.script, "ISO 15924 code of the script, such as Latn")
        + _entry("family", "", "language family, such as Romance or Bantu")
        + _entry("relatedness", "", "to English: 2 the same branch, 1 Indo-European, 0 neither")
    )

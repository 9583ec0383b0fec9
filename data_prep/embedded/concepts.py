"""Concepts that the images show: a fixed table, and their names in each language.

The table (code points, category, icon name per art style) is committed, so the selection is fixed.
Names and keywords come from Unicode CLDR, so every language of CLDR is supported.
"""

import csv
import dataclasses
import functools
import unicodedata
from pathlib import Path

import numpy as np

from core.chat.characters import split_words
from core.errors import DataError, unknown_name
from core.languages import FOLDER, language_file
from data_prep.embedded.packages import PackageFolder
from data_prep.embedded.wordings import CATEGORIES, FORMS_FILE, Language

TABLE_PATH = Path(__file__).with_name("concepts.tsv")
MIN_CONCEPTS = 12
"""Fewer concepts do not give enough scenes that are unseen in training."""
ANNOTATIONS = "cldr-annotations-full"
DERIVED_ANNOTATIONS = "cldr-annotations-derived-full"

# Questions such as "Is this a tool?" are asked only where the answer is unambiguous.
_OVERLAPPING = (
    ("tool", "device", "instrument", "household", "game"),
    ("food", "plant", "drink"),
    ("clothing", "accessory", "household"),
    ("reading", "household"),
    ("nature", "place"),
    ("accessory", "device"),
    ("accessory", "tool"),
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Concept:
    """A row of the table."""

    codepoints: str
    category: str
    family: str
    """Concepts of a family are never used as wrong answers for each other; "" for none."""
    icons: dict[str, str]
    """Art style -> icon name, for the styles that have the icon."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Lexicon:
    """Names and keywords of the concepts in one language, in the order of the table."""

    language: Language
    names: tuple[str, ...]
    keywords: tuple[tuple[str, ...], ...]
    codepoints: tuple[str, ...]

    def is_plural(self, concept: int) -> bool:
        """Return whether the name of a concept is plural."""
        return self.codepoints[concept] in self.language.plural

    def forms(self, concept: int) -> dict[str, str]:
        """Return the placeholders for the name of a concept in all its forms."""
        forms = self.language.forms.get(self.codepoints[concept], {})
        blanks = {f"name_{key}": text for key, text in forms.items() if key != "name"}
        return {"name": self.names[concept]} | blanks


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """The concepts of a build with their names in its languages."""

    concepts: tuple[Concept, ...]
    lexicons: tuple[Lexicon, ...]
    confusable: np.ndarray
    """bool [concept, concept]: the name of one may be a right answer for the other."""
    left_out: tuple[str, ...]
    """Reasons why concepts of the table are missing, one line each."""

    def __len__(self) -> int:
        """Number of concepts."""
        return len(self.concepts)


def read_table() -> tuple[Concept, ...]:
    """Read all concepts in the order of the table; every prefix is balanced over categories."""
    with TABLE_PATH.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    fixed = {"codepoints", "name", "category", "family"}
    concepts = []
    for row in rows:
        if row["category"] not in CATEGORIES:
            raise DataError(
                f"{TABLE_PATH}: {unknown_name('category', row['category'], CATEGORIES)}"
            )
        icons = {style: icon for style, icon in row.items() if style not in fixed and icon}
        concepts.append(
            Concept(
                codepoints=row["codepoints"],
                category=row["category"],
                family=row["family"],
                icons=icons,
            )
        )
    return tuple(concepts)


def load_catalogue(
    packages: PackageFolder, languages: tuple[Language, ...], num_concepts: int
) -> Catalogue:
    """Select the first concepts of the table that have a distinct name in every language.

    Raises:
        DataError: If CLDR lacks a language, or `num_concepts` is out of range.
    """
    table = read_table()
    if not MIN_CONCEPTS <= num_concepts <= len(table):
        raise DataError(
            f"--concepts {num_concepts}, expected a number from {MIN_CONCEPTS} to {len(table)}"
        )
    annotations = [_read_annotations(packages, language) for language in languages]
    chosen: list[Concept] = []
    taken: list[set[str]] = [set() for _ in languages]
    left_out: list[str] = []
    for concept in table:
        if len(chosen) == num_concepts:
            break
        reason = _exclusion_reason(concept, languages, annotations, taken)
        if reason:
            left_out.append(f"{concept.codepoints}: {reason}")
            continue
        chosen.append(concept)
        for names, found in zip(taken, annotations, strict=True):
            names.add(normalise(found[to_character(concept.codepoints)][0]))
    if len(chosen) < MIN_CONCEPTS:
        codes = ", ".join(language.code for language in languages)
        raise DataError(
            f"{len(chosen)} objects have a distinct name in all of {codes}, {MIN_CONCEPTS} are "
            f"needed; write more under `names` in data.yaml (first: {left_out[0]})"
        )
    lexicons = tuple(
        _make_lexicon(chosen, language, found)
        for language, found in zip(languages, annotations, strict=True)
    )
    return Catalogue(
        concepts=tuple(chosen),
        lexicons=lexicons,
        confusable=_confusable_pairs(chosen, lexicons),
        left_out=tuple(left_out),
    )


def categories_overlap(first: str, second: str) -> bool:
    """Return whether something of one category might also belong to the other."""
    return first == second or any(first in group and second in group for group in _OVERLAPPING)


def normalise(name: str) -> str:
    """Normalise the case and spacing of a name for comparison."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def lemmas(text: str, language: Language) -> tuple[str, ...]:
    """Return the words of a text without the endings that carry the article."""
    return tuple(_lemma(word, language) for word in split_words(text.casefold()))


def _lemma(word: str, language: Language) -> str:
    for ending in language.article_endings:
        if word.endswith(ending) and len(word) > len(ending) + 2:
            word = word.removesuffix(ending)
            break
    # Basque doubles the final r before the article: txakur, txakurra.
    return word[:-1] if language.article_endings and word.endswith("rr") else word


def _read_annotations(
    packages: PackageFolder, language: Language
) -> dict[str, tuple[str, tuple[str, ...]]]:
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for package, key in (
        (DERIVED_ANNOTATIONS, "annotationsDerived"),
        (ANNOTATIONS, "annotations"),
    ):
        if language.cldr not in _list_locales(packages, package, key):
            known = _list_locales(packages, ANNOTATIONS, "annotations")
            raise DataError(
                unknown_name("CLDR language", language.cldr, known, fix=f"Correct {language.code}")
            )
        raw = packages.npm_json(package, f"{key}/{language.cldr}/annotations.json")
        for character, entry in raw[key].get("annotations", {}).items():  # `und` has none
            if entry.get("tts"):
                found[character] = (entry["tts"][0], tuple(entry.get("default", ())))
    for codepoints, name in language.names.items():
        character = to_character(codepoints)
        wrong, keywords = found.get(character, ("", ()))
        found[character] = (name, tuple(word for word in keywords if word != wrong))
    return found


@functools.cache
def _list_locales(packages: PackageFolder, package: str, key: str) -> frozenset[str]:
    names = packages.npm_names(package)
    return frozenset(name.split("/")[1] for name in names if name.startswith(f"{key}/"))


def to_character(codepoints: str) -> str:
    """Return the character of hexadecimal code points that are joined by hyphens."""
    return "".join(chr(int(code, 16)) for code in codepoints.split("-"))


def _exclusion_reason(
    concept: Concept,
    languages: tuple[Language, ...],
    annotations: list[dict[str, tuple[str, tuple[str, ...]]]],
    taken: list[set[str]],
) -> str:
    for language, found, names in zip(languages, annotations, taken, strict=True):
        if to_character(concept.codepoints) not in found:
            return f"CLDR has no name in '{language.code}'"
        name = found[to_character(concept.codepoints)][0]
        if normalise(name) in names:
            return f"the name '{name}' is taken in '{language.code}'"
    return ""


def _make_lexicon(
    concepts: list[Concept],
    language: Language,
    found: dict[str, tuple[str, tuple[str, ...]]],
) -> Lexicon:
    names = tuple(found[to_character(concept.codepoints)][0] for concept in concepts)
    keywords = []
    for concept, name in zip(concepts, names, strict=True):
        words = found[to_character(concept.codepoints)][1]
        keywords.append(tuple(word for word in words if normalise(word) != normalise(name)))
        forms = language.forms.get(concept.codepoints)
        if language.forms and (forms is None or forms["name"] != name):
            raise DataError(
                f"{language_file(language.code, FORMS_FILE, FOLDER)}: {concept.codepoints} is "
                f"{forms and forms['name']!r}, expected the forms of '{name}'; add or correct it"
            )
    return Lexicon(
        language=language,
        names=names,
        keywords=tuple(keywords),
        codepoints=tuple(concept.codepoints for concept in concepts),
    )


def _confusable_pairs(concepts: list[Concept], lexicons: tuple[Lexicon, ...]) -> np.ndarray:
    """Mark pairs of one family, or whose names contain or are keywords of each other."""
    size = len(concepts)
    result = np.eye(size, dtype=bool)
    families = np.array([concept.family for concept in concepts])
    result |= (families[:, None] == families[None, :]) & (families != "")[:, None]
    for lexicon in lexicons:
        named = [frozenset(lemmas(name, lexicon.language)) for name in lexicon.names]
        described = [
            {frozenset(lemmas(word, lexicon.language)) for word in words}
            for words in lexicon.keywords
        ]
        for shown in range(size):
            for asked in range(size):
                if named[asked] <= named[shown] or named[asked] in described[shown]:
                    result[shown, asked] = result[asked, shown] = True
    return result

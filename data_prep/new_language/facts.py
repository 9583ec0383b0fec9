"""Facts about a language from Unicode CLDR and Debian.

Source: the JSON packages of CLDR 48 (names of languages, likely scripts, words for yes and no,
rules that spell numbers, names of emoji).
"""

import dataclasses
import re
import subprocess

from core.errors import DataError, unknown_name
from data_prep.embedded.concepts import (
    ANNOTATIONS,
    DERIVED_ANNOTATIONS,
    read_table,
    to_character,
)
from data_prep.embedded.packages import PackageFolder

NO_LOCALE = "und"
"""CLDR's undetermined language, which names no object: all names come from `names` in data.yaml."""
HELP_PREFIX = "libreoffice-help-"
_MODEL = "en"
_MAX_NUMERAL = 10
_TENS = (20, 30, 40, 50, 60, 70, 80, 90, 100)
_RULE_SETS = ("%spellout-numbering", "%spellout-cardinal")
_REFERENCE = re.compile(r"=(%[^=]+)=")
_OPTIONAL_PART = re.compile(r"\[[^\]]*\]")
_DIRECTIVE = re.compile(r"[=<>←→#0-9$]")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LanguageFacts:
    """Facts about a language; texts are empty where nothing is known."""

    code: str
    english_name: str
    own_name: str
    script: str
    """ISO 15924 code."""
    cldr: str
    """Locale of the names of objects; NO_LOCALE if there is none."""
    yes: str
    no: str
    numerals: tuple[str, ...]
    """Words for 0, 1, 2 and so on, without gaps; up to 10."""
    more_numerals: dict[str, int]
    """Words for tens and hundred."""
    names: dict[str, str]
    """Code points -> name of an object in the language."""
    english_names: dict[str, str]
    """Code points -> English name of every object."""
    help_package: str
    """Debian package with the help pages of LibreOffice."""
    help_folder: str

    @property
    def unnamed(self) -> dict[str, str]:
        """Code points -> English name of the objects without a name in the language."""
        known = self.names
        return {key: name for key, name in self.english_names.items() if key not in known}

    def describe_gaps(self) -> list[str]:
        """Return what nobody provides and a person has to write, one line each."""
        gaps = []
        if self.unnamed:
            gaps.append(
                f"names of {len(self.unnamed)} of {len(self.english_names)} objects "
                "(`names` in data.yaml)"
            )
        if not self.own_name:
            gaps.append("the language's name for itself (`name` in data.yaml)")
        if not self.yes or not self.no:
            gaps.append("words for yes and no (data.yaml, prompts.yaml, translation.yaml)")
        if len(self.numerals) <= _MAX_NUMERAL:
            first = f" from {len(self.numerals)} on" if self.numerals else ""
            gaps.append(f"number words{first} (answers.yaml; 1 to 4 in data.yaml)")
        if not self.help_package:
            gaps.append("running text: Debian has no help pages, so text-only data are dialogues")
        return gaps


def gather_facts(
    code: str, packages: PackageFolder, *, name: str = "", help_packages: tuple[str, ...] = ()
) -> LanguageFacts:
    """Collect what is known about a language.

    Args:
        code: ISO 639 code, with a script or region where needed (`sr-Latn`).
        packages: Folder of the CLDR packages.
        name: English name, for a language that CLDR does not list.
        help_packages: Names of the Debian packages with help pages (`list_help_packages`).

    Raises:
        DataError: If the language is unknown and has no name, or a package can't be read.
    """
    listed = _display_names(packages, _MODEL)
    english_name = name or listed.get(code) or listed.get(code.partition("-")[0], "")
    if not english_name:
        raise DataError(
            unknown_name("language", code, listed, fix="If the code is right, give --name NAME")
        )
    locale = _locale(packages, ANNOTATIONS, "annotations/{}/annotations.json", code)
    yes, no = _yes_no(packages, code)
    help_package, help_folder = _help_pages(code, help_packages)
    numerals, more_numerals = _number_words(packages, code)
    return LanguageFacts(
        code=code,
        english_name=english_name,
        own_name=_display_names(packages, code).get(code, ""),
        script=_script(packages, code),
        cldr=locale or NO_LOCALE,
        yes=yes,
        no=no,
        numerals=numerals,
        more_numerals=more_numerals,
        names=_object_names(packages, locale) if locale else {},
        english_names=_object_names(packages, _MODEL),
        help_package=help_package,
        help_folder=help_folder,
    )


def list_help_packages() -> tuple[str, ...]:
    """Return the names of Debian's packages with help pages; none without apt-cache."""
    command = ["apt-cache", "pkgnames", HELP_PREFIX]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ()
    return tuple(sorted(found.stdout.split()))


def _help_pages(code: str, help_packages: tuple[str, ...]) -> tuple[str, str]:
    package = f"{HELP_PREFIX}{code.lower()}"
    if package not in help_packages:
        return "", ""
    language, _, region = code.partition("-")
    return package, f"{language}-{region.upper()}" if region else language


def _locale(packages: PackageFolder, package: str, file: str, code: str) -> str:
    """Return the locale of a package that has a file (`main/{}/posix.json`), or ""."""
    found = set(packages.npm_names(package))
    return next((one for one in (code, code.partition("-")[0]) if file.format(one) in found), "")


def _display_names(packages: PackageFolder, code: str) -> dict[str, str]:
    """Return language code -> its name in a language."""
    locale = _locale(packages, "cldr-localenames-full", "main/{}/languages.json", code)
    if not locale:
        return {}
    raw = packages.npm_json("cldr-localenames-full", f"main/{locale}/languages.json")
    names: dict[str, str] = raw["main"][locale]["localeDisplayNames"]["languages"]
    return {key: name for key, name in names.items() if name != key}


def _script(packages: PackageFolder, code: str) -> str:
    for part in code.split("-")[1:]:
        if len(part) == len("Latn"):
            return part.title()
    raw = packages.npm_json("cldr-core", "supplemental/likelySubtags.json")
    tag: str = raw["supplemental"]["likelySubtags"].get(code.partition("-")[0], "")
    return tag.split("-")[1] if tag.count("-") else ""


def _yes_no(packages: PackageFolder, code: str) -> tuple[str, str]:
    """Return the words for yes and no; CLDR repeats the English ones where it knows none."""
    locale = _locale(packages, "cldr-misc-full", "main/{}/posix.json", code)
    if not locale:
        return "", ""
    raw = packages.npm_json("cldr-misc-full", f"main/{locale}/posix.json")
    messages = raw["main"][locale]["posix"]["messages"]
    yes, no = (messages[key].split(":")[0].casefold() for key in ("yesstr", "nostr"))
    return ("", "") if (yes, no) == ("yes", "no") and code != _MODEL else (yes, no)


def _object_names(packages: PackageFolder, locale: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for package, key in ((DERIVED_ANNOTATIONS, "annotationsDerived"), (ANNOTATIONS, "annotations")):
        if _locale(packages, package, f"{key}/{{}}/annotations.json", locale) != locale:
            continue
        raw = packages.npm_json(package, f"{key}/{locale}/annotations.json")
        for character, entry in raw[key].get("annotations", {}).items():
            if entry.get("tts"):
                found[character] = entry["tts"][0]
    concepts = {one.codepoints: to_character(one.codepoints) for one in read_table()}
    return {key: found[character] for key, character in concepts.items() if character in found}


def _number_words(packages: PackageFolder, code: str) -> tuple[tuple[str, ...], dict[str, int]]:
    locale = _locale(packages, "cldr-rbnf", "rbnf/{}.json", code)
    if not locale:
        return (), {}
    raw = packages.npm_json("cldr-rbnf", f"rbnf/{locale}.json")["rbnf"]["rbnf"]
    spelled = raw.get("SpelloutRules", {}).items()
    rules = {name: dict(row for row in rows if len(row) == 2) for name, rows in spelled}  # noqa: PLR2004 - pairs
    first = next((name for key in _RULE_SETS for name in rules if name.startswith(key)), "")
    numerals: list[str] = []
    for number in range(_MAX_NUMERAL + 1):
        word = _spell(rules, first, number)
        if not word or word in numerals:
            break
        numerals.append(word)
    tens = {_spell(rules, first, number): number for number in _TENS}
    known = {word: number for word, number in tens.items() if word and " " not in word}
    return tuple(numerals), {word: n for word, n in known.items() if word not in numerals}


def _spell(rules: dict[str, dict[str, str]], name: str, number: int) -> str:
    """Return the word for a number that has a rule of its own; "" for composed ones."""
    for _ in rules:
        own = rules.get(name, {})
        text = own.get(str(number), own.get("0", "") if number else "")
        text = _OPTIONAL_PART.sub("", text.removesuffix(";")).replace("\u00ad", "").strip()
        if not (reference := _REFERENCE.fullmatch(text)):
            is_own = str(number) in own and not _DIRECTIVE.search(text)
            return text.strip("' ") if is_own else ""
        name = reference[1]
    return ""

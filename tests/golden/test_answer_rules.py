"""Answer rules match as recorded; a change raises the version that is part of addresses.

A rule in code can change scores without any file of a language changing. After a deliberate change,
raise `version` in the rules and run `python -m tests.golden.test_answer_rules`.
"""

import json
from pathlib import Path

import pytest

from evaluation.answers.registry import rules_for

RECORD = Path(__file__).parent / "answer_rules.json"
LANGUAGES = ("ca", "cy", "en", "es", "eu", "neutral")
PROBES = (
    "Bai.",
    "txakurra",
    "txakur bat",
    "neskak",
    "TB-a",
    "bat",
    "bi",
    "hamar",
    "3,5",
    "3.5",
    "%50",
    "50 %",
    "laua",
    "lau",
    "etxe handia",
    "ehuneko bost",
    "a dog",
    "the two dogs",
    "no",
    "dim",
    "dwy gath",
    "y gath",
    "un perro",
    "l'home",
    "dues",
    "cinco por ciento",
    "cinc per cent",
    "1,000",
    "",
)


def behaviour(language: str) -> dict[str, list[list[str]]]:
    """Return probe -> its canonical text and equivalent forms under the strict and relaxed rule."""
    rules = rules_for(language)
    found = {}
    for probe in PROBES:
        texts = [(rule, rule.normalise(probe)) for rule in (rules.strict, rules.relaxed)]
        found[probe] = [[text, *sorted(rule.forms(text))] for rule, text in texts]
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_rules_match_as_recorded_for_their_version(language: str) -> None:
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))[language]
    version = rules_for(language).version
    if behaviour(language) != recorded["behaviour"]:
        assert version > recorded["version"], (
            f"the rules of '{language}' match other answers than before; raise their version, "
            "which makes finished evaluations run again, and record them again"
        )
    assert (version, behaviour(language)) == (recorded["version"], recorded["behaviour"]), (
        "run python -m tests.golden.test_answer_rules"
    )


if __name__ == "__main__":
    content = {
        language: {"version": rules_for(language).version, "behaviour": behaviour(language)}
        for language in LANGUAGES
    }
    RECORD.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

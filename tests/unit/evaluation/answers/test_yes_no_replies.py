"""Hand-written replies to yes/no questions are parsed as a person reads them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from evaluation.answers.refusals import RefusalDetector
from evaluation.answers.yes_no import YesNoParser
from evaluation.benchmarks.prompting import load_prompts

TABLE = Path(__file__).parent / "replies" / "yes_no.yaml"
READINGS = {"yes": True, "no": False, "neither": None, "refusal": None}
MIN_REPLIES = 50


def _rows() -> Iterator[tuple[str, str, str]]:
    for language, readings in yaml.safe_load(TABLE.read_text()).items():
        for reading, replies in readings.items():
            for reply in replies:
                yield language, reading, reply


ROWS = list(_rows())
BOOK = load_prompts(sorted({language for language, _, _ in ROWS}))
PARSER = YesNoParser(BOOK.yes_no_words)
DETECTOR = RefusalDetector(BOOK.refusal_phrases)


@pytest.mark.parametrize(("language", "reading", "reply"), ROWS)
def test_a_reply_is_parsed_as_a_person_reads_it(language: str, reading: str, reply: str) -> None:
    assert PARSER.parse(reply, language) is READINGS[reading]
    if reading in ("refusal", "neither"):
        assert DETECTOR.is_refusal(reply, language) is (reading == "refusal")


def test_the_table_is_large_and_has_no_repetitions() -> None:
    assert len({(language, reply) for language, _, reply in ROWS}) == len(ROWS)
    sizes = {code: sum(row[0] == code for row in ROWS) for code in ("en", "eu", "es", "cy")}
    assert min(sizes.values()) >= MIN_REPLIES, sizes

"""Gate of benchmark items before they are written: imported, prepared and corrected benchmarks."""

from collections.abc import Iterable, Mapping
from typing import Any

from evaluation.answers.yes_no import YesNoParser
from evaluation.benchmarks.item_texts import check_truth
from evaluation.benchmarks.items import Benchmark, check_item
from evaluation.benchmarks.prompting import load_prompts


class ItemGate:
    """Check of a question in all its languages, before it is written."""

    def __init__(self, benchmark: str, languages: Iterable[str]) -> None:
        """Create the gate of a kind of benchmark.

        Raises:
            ConfigError: If the prompts of a language are invalid.
        """
        self._languages = tuple(languages)
        self._yes_no: YesNoParser | None = None
        if benchmark == Benchmark.CAPTION_QA:
            self._yes_no = YesNoParser(load_prompts(self._languages).yes_no_words)

    def check(self, item: Mapping[str, Any], where: str) -> None:
        """Check an item as it is stored.

        Raises:
            ConfigError: If a language has no words for yes and no.
            DataError: If the item can't be asked or scored, or its languages contradict each other.
        """
        check_item(item, self._languages, where)
        if self._yes_no is not None:
            place = f"{where}, question '{item['question_id']}'"
            check_truth(item["answers"], self._yes_no, place)

"""One reply to one item -> its parsed answer and its scores."""

import dataclasses
from collections.abc import Callable

from core.errors import DataError
from evaluation.answers.choices import parse_choice
from evaluation.answers.languages import english
from evaluation.answers.registry import rule_for
from evaluation.answers.yes_no import YesNoParser
from evaluation.benchmarks.items import Benchmark, BenchmarkItem
from evaluation.metrics.open_text import anls, chrf, direct_score
from evaluation.metrics.vqa import aware_score, official_score


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ItemScore:
    """What a reply is worth."""

    parsed: str | None
    """The reply as it was compared: normalised (vqa), a choice (mc), "yes" or "no" (capqa); None
    if it could not be read."""
    score: float
    """The official score, 0..1; chrF for open text."""
    score_aware: float | None
    """The language-aware score (vqa, da), ANLS (open)."""


class Scorer:
    """Scores replies to items of every benchmark."""

    def __init__(self, yes_no: YesNoParser, *, relaxed: bool = True) -> None:
        """Take the yes/no parser and whether definite and bare forms match (aware score)."""
        self._yes_no = yes_no
        self._relaxed = relaxed
        self._score_of: dict[Benchmark, Callable[[BenchmarkItem, str], ItemScore]] = {
            Benchmark.VQA: self._vqa,
            Benchmark.MULTIPLE_CHOICE: self._choice,
            Benchmark.CAPTION_QA: self._caption_qa,
            Benchmark.DIRECT: self._direct,
            Benchmark.OPEN: self._open,
            Benchmark.WILD: self._wild,
        }

    def score(self, item: BenchmarkItem, reply: str) -> ItemScore:
        """Score a raw reply."""
        return self._score_of[item.benchmark](item, reply)

    def expected(self, item: BenchmarkItem) -> str | None:
        """The right choice (mc), "yes" or "no" (capqa); None where ten people decide (vqa)."""
        if item.correct_choice is not None:
            return item.choices[item.correct_choice]
        is_yes_no = item.benchmark is Benchmark.CAPTION_QA
        return ("no", "yes")[self.is_yes(item)] if is_yes_no else None

    def is_yes(self, item: BenchmarkItem) -> bool:
        """The truth of a yes/no item.

        Raises:
            DataError: its answer is neither in the item's language.
        """
        truth = self._yes_no.parse(item.answers[0], item.language)
        if truth is None:
            raise DataError(
                f"{item.benchmark} item '{item.question_id}': the answer '{item.answers[0]}' is "
                f"neither yes nor no in '{item.language}'; see languages/CODE/prompts.yaml"
            )
        return truth

    def _vqa(self, item: BenchmarkItem, reply: str) -> ItemScore:
        rule = rule_for(item.language, relaxed=self._relaxed)
        return ItemScore(
            parsed=english.normalise(reply),
            score=official_score(reply, item.answers),
            score_aware=aware_score(reply, item.answers, rule),
        )

    def _choice(self, item: BenchmarkItem, reply: str) -> ItemScore:
        index = parse_choice(reply, item.choices).index
        return ItemScore(
            parsed=None if index is None else item.choices[index],
            score=float(index == item.correct_choice),
            score_aware=None,
        )

    def _caption_qa(self, item: BenchmarkItem, reply: str) -> ItemScore:
        verdict = self._yes_no.parse(reply, item.language)
        return ItemScore(
            parsed=None if verdict is None else ("no", "yes")[verdict],
            score=float(verdict == self.is_yes(item)),
            score_aware=None,
        )

    def _direct(self, item: BenchmarkItem, reply: str) -> ItemScore:
        rule = rule_for(item.language, relaxed=self._relaxed)
        said = reply.strip()
        return ItemScore(
            parsed=said,
            score=direct_score(said, item.answers),
            score_aware=direct_score(said, item.answers, is_same=rule.matches),
        )

    def _wild(self, item: BenchmarkItem, reply: str) -> ItemScore:
        """Whether there is a reply; how good it is, people and judges say."""
        del item
        said = reply.strip()
        return ItemScore(parsed=said or None, score=float(bool(said)), score_aware=None)

    def _open(self, item: BenchmarkItem, reply: str) -> ItemScore:
        return ItemScore(
            parsed=reply.strip(),
            score=chrf(reply.strip(), item.answers),
            score_aware=anls(reply, item.answers),
        )

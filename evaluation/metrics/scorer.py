"""Scoring of single replies."""

import dataclasses
from collections.abc import Callable, Mapping

from core.errors import DataError
from evaluation.answers.choice_words import NO_WORDS, ChoiceWords
from evaluation.answers.choices import parse_choice
from evaluation.answers.languages import english
from evaluation.answers.registry import rule_for, rules_for
from evaluation.answers.yes_no import YesNoParser
from evaluation.benchmarks.items import Benchmark, BenchmarkItem
from evaluation.metrics.open_text import anls, chrf, direct_score
from evaluation.metrics.vqa import aware_score, lmms_score, official_score


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ItemScore:
    """Parsed answer and scores of a reply."""

    parsed: str | None
    """The part of the reply that is compared: the normalised reply (vqa), a choice (mc), or "yes"
    or "no" (capqa). None if the reply can't be parsed."""
    score: float
    """The official score in 0..1; chrF for open text."""
    score_aware: float | None
    """The language-aware score (vqa, da) or ANLS (open)."""
    score_lmms: float | None = None
    """The score of lmms-eval (vqa), which always normalises."""


def normalised_score(score: ItemScore) -> float:
    """Return the score that does not depend on capitals or punctuation, if there is one (vqa)."""
    return score.score if score.score_lmms is None else score.score_lmms


class Scorer:
    """Scores replies to the items of any benchmark."""

    def __init__(
        self,
        yes_no: YesNoParser,
        *,
        choice_words: Mapping[str, ChoiceWords] | None = None,
        relaxed: bool = True,
    ) -> None:
        """Create a scorer.

        Args:
            yes_no: Parser of replies to yes/no questions.
            choice_words: Words for parsing replies to multiple-choice questions, by language.
            relaxed: Match definite and bare forms in the language-aware score.
        """
        self._yes_no = yes_no
        self._choice_words = choice_words or {}
        self._relaxed = relaxed
        self._scorers: dict[Benchmark, Callable[[BenchmarkItem, str], ItemScore]] = {
            Benchmark.VQA: self._score_vqa,
            Benchmark.MULTIPLE_CHOICE: self._score_choice,
            Benchmark.CAPTION_QA: self._score_caption_qa,
            Benchmark.DIRECT: self._score_direct,
            Benchmark.OPEN: self._score_open,
            Benchmark.WILD: self._score_wild,
        }

    def score(self, item: BenchmarkItem, reply: str) -> ItemScore:
        """Score a raw reply."""
        return self._scorers[item.benchmark](item, reply)

    def expected(self, item: BenchmarkItem) -> str | None:
        """Return the correct choice (mc), "yes" or "no" (capqa), or None for other benchmarks."""
        if item.correct_choice is not None:
            return item.choices[item.correct_choice]
        is_yes_no = item.benchmark is Benchmark.CAPTION_QA
        return ("no", "yes")[self.is_yes(item)] if is_yes_no else None

    def is_yes(self, item: BenchmarkItem) -> bool:
        """Return whether the correct answer of a yes/no item is yes.

        Raises:
            DataError: If the answer is neither yes nor no in the item's language.
        """
        is_yes = self._yes_no.parse(item.answers[0], item.language)
        if is_yes is None:
            raise DataError(
                f"{item.benchmark} item '{item.question_id}': the answer '{item.answers[0]}' is "
                f"neither yes nor no in '{item.language}'; see languages/CODE/prompts.yaml"
            )
        return is_yes

    def _score_vqa(self, item: BenchmarkItem, reply: str) -> ItemScore:
        rule = rule_for(item.language, relaxed=self._relaxed)
        return ItemScore(
            parsed=english.normalise(reply),
            score=official_score(reply, item.answers),
            score_aware=aware_score(reply, item.answers, rule),
            score_lmms=lmms_score(reply, item.answers),
        )

    def _score_choice(self, item: BenchmarkItem, reply: str) -> ItemScore:
        index = parse_choice(
            reply,
            item.choices,
            words=self._choice_words.get(item.language, NO_WORDS),
            rules=rules_for(item.language),
        ).index
        return ItemScore(
            parsed=None if index is None else item.choices[index],
            score=float(index == item.correct_choice),
            score_aware=None,
        )

    def _score_caption_qa(self, item: BenchmarkItem, reply: str) -> ItemScore:
        is_yes = self._yes_no.parse(reply, item.language)
        return ItemScore(
            parsed=None if is_yes is None else ("no", "yes")[is_yes],
            score=float(is_yes == self.is_yes(item)),
            score_aware=None,
        )

    def _score_direct(self, item: BenchmarkItem, reply: str) -> ItemScore:
        rule = rule_for(item.language, relaxed=self._relaxed)
        return ItemScore(
            parsed=reply,
            score=direct_score(reply, item.answers),
            score_aware=direct_score(reply, item.answers, is_same=rule.matches),
        )

    def _score_wild(self, item: BenchmarkItem, reply: str) -> ItemScore:
        """Score only that there is a reply; annotators and judges compare its quality."""
        del item
        text = reply.strip()
        return ItemScore(parsed=text or None, score=float(bool(text)), score_aware=None)

    def _score_open(self, item: BenchmarkItem, reply: str) -> ItemScore:
        return ItemScore(
            parsed=reply.strip(),
            score=chrf(reply.strip(), item.answers),
            score_aware=anls(reply, item.answers),
        )

"""The rows of an evaluation: one per item, with reply, scores, and scores of the baselines."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from evaluation.answerers.base import ModelReply
from evaluation.answers.refusals import RefusalDetector
from evaluation.benchmarks.items import Benchmark, BenchmarkItem
from evaluation.benchmarks.predictions import SCHEMA
from evaluation.metrics.baselines import MajorityBaseline, chance_score
from evaluation.metrics.reply_language import ReplyLanguage, is_in_language
from evaluation.metrics.scorer import ItemScore, Scorer, normalised_score

_Columns = dict[str, list[object]]
_CLOSED = (Benchmark.MULTIPLE_CHOICE, Benchmark.CAPTION_QA)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RowBuilder:
    """Scores the replies to all items and writes them down as a table of `SCHEMA`."""

    items: Sequence[BenchmarkItem]
    scorer: Scorer
    reply_language: ReplyLanguage
    refusals: RefusalDetector
    guided: frozenset[Benchmark] = frozenset()
    """Kinds of benchmarks whose replies had to be one of the options."""

    def build(
        self,
        prompts: Sequence[str],
        replies: Sequence[ModelReply],
        blind: Sequence[ModelReply] | None,
        baseline: MajorityBaseline,
        likeliest: Sequence[str | None] | None = None,
        blind_likeliest: Sequence[str | None] | None = None,
    ) -> pa.Table:
        """Return the table.

        Args:
            prompts: Text of the user turn of every item.
            replies: Reply to every item.
            blind: Replies with a blank image; None if they were not asked for.
            baseline: Scores of the best constant replies.
            likeliest: Likeliest reply to every closed question; None if they were not asked for.
            blind_likeliest: The same with a blank image.
        """
        table = self._item_columns(prompts)
        table |= self._reply_columns(replies)
        table |= self._blind_columns(blind)
        for prefix, found in (("", likeliest), ("blind_", blind_likeliest)):
            table |= self._likeliest_columns(prefix, found or [None] * len(self.items))
        table |= self._baseline_columns(baseline)
        return pa.table({name: table[name] for name in SCHEMA.names}, schema=SCHEMA)

    def _item_columns(self, prompts: Sequence[str]) -> _Columns:
        items = self.items
        return {
            "dataset": [item.dataset for item in items],
            "question_id": [item.question_id for item in items],
            "benchmark": [item.benchmark.value for item in items],
            "question_type": [item.question_type for item in items],
            "answer_type": [item.answer_type for item in items],
            "language": [item.language for item in items],
            "image_key": [item.image_key for item in items],
            "question": [item.question for item in items],
            "prompt": list(prompts),
            "answers": [list(item.answers) for item in items],
            "choices": [list(item.choices) for item in items],
            "expected": [self.scorer.expected(item) for item in items],
        }

    def _reply_columns(self, replies: Sequence[ModelReply]) -> _Columns:
        scores = self._scores(replies)
        identified = [self.reply_language.identify(reply.text) for reply in replies]
        pairs = list(zip(self.items, identified, strict=True))
        return {
            "output": [reply.text for reply in replies],
            "parsed": [score.parsed for score in scores],
            "score": [score.score for score in scores],
            "score_lmms": [score.score_lmms for score in scores],
            "score_aware": [score.score_aware for score in scores],
            "score_any_language": self._any_language(replies),
            "language_identified": list(identified),
            "is_in_language": [
                None if item.benchmark in self.guided else is_in_language(found, item.language)
                for item, found in pairs
            ],
            "is_refusal": [
                self._is_refusal(item, reply, score)
                for item, reply, score in zip(self.items, replies, scores, strict=True)
            ],
            "num_tokens": [reply.num_tokens for reply in replies],
            "is_truncated": [reply.is_truncated for reply in replies],
        }

    def _is_refusal(self, item: BenchmarkItem, reply: ModelReply, score: ItemScore) -> bool:
        """Return whether a reply declines to answer; a parsed answer may still express doubt."""
        if item.benchmark in _CLOSED and score.parsed is not None:
            return False
        return self.refusals.is_refusal(reply.text, item.language)

    def _likeliest_columns(self, prefix: str, replies: Sequence[str | None]) -> _Columns:
        pairs = zip(self.items, replies, strict=True)
        return {
            f"{prefix}likeliest_output": list(replies),
            f"{prefix}likeliest_score": [
                None if reply is None else self.scorer.score(item, reply).score
                for item, reply in pairs
            ],
        }

    def _blind_columns(self, blind: Sequence[ModelReply] | None) -> _Columns:
        names = ("output", "parsed", "score", "score_lmms", "score_aware")
        if blind is None:
            return {f"blind_{name}": [None] * len(self.items) for name in names}
        scores = self._scores(blind)
        return {
            "blind_output": [reply.text for reply in blind],
            "blind_parsed": [score.parsed for score in scores],
            "blind_score": [score.score for score in scores],
            "blind_score_lmms": [score.score_lmms for score in scores],
            "blind_score_aware": [score.score_aware for score in scores],
        }

    def _baseline_columns(self, baseline: MajorityBaseline) -> _Columns:
        return {
            "majority_score": [float(value) for value in baseline.scores],
            "majority_score_lmms": _none_for_nan(baseline.scores_lmms),
            "majority_score_aware": _none_for_nan(baseline.scores_aware),
            "chance_score": [chance_score(item) for item in self.items],
        }

    def _scores(self, replies: Sequence[ModelReply]) -> list[ItemScore]:
        pairs = zip(self.items, replies, strict=True)
        return [self.scorer.score(item, reply.text) for item, reply in pairs]

    def _any_language(self, replies: Sequence[ModelReply]) -> list[object]:
        """Return the best score of each reply against the same question in any language."""
        versions: dict[tuple[str, str, str], list[BenchmarkItem]] = {}
        for item in self.items:
            versions.setdefault(_question(item), []).append(item)
        return [
            max(
                normalised_score(self.scorer.score(other, reply.text))
                for other in versions[_question(item)]
            )
            for item, reply in zip(self.items, replies, strict=True)
        ]


def _question(item: BenchmarkItem) -> tuple[str, str, str]:
    return (item.dataset, item.benchmark, item.question_id)


def _none_for_nan(scores: np.ndarray) -> list[object]:
    return [None if np.isnan(value) else float(value) for value in scores]

"""Runs a benchmark through a model: replies with and without the image, scores, metrics, files.

It needs no Trainer and forces no language on the model. Every item leaves a row.
"""

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from core.config import to_plain
from core.errors import DataError
from core.io.files import atomic_write_text
from evaluation.answerers.base import Answerer, ModelReply
from evaluation.answers.yes_no import YesNoParser, YesNoPolicy
from evaluation.benchmarks.items import BenchmarkItem
from evaluation.benchmarks.predictions import FILE_NAME, SCHEMA, write_predictions
from evaluation.benchmarks.prompting import BARE_STYLE, load_prompts
from evaluation.benchmarks.questions import Question
from evaluation.metrics.aggregate import MetricValue, aggregate
from evaluation.metrics.baselines import (
    GroupKey,
    MajorityAnswer,
    MajorityBaseline,
    chance_score,
    majority_baseline,
)
from evaluation.metrics.reply_language import ReplyLanguage
from evaluation.metrics.scorer import ItemScore, Scorer

METRICS_FILE = "metrics.json"

_BLANK_SIZE = (128, 128)
_BLANK_COLOUR = (255, 255, 255)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationOptions:
    """What an evaluation may vary."""

    prompt_style: str = BARE_STYLE
    """Which templates of the prompt files."""
    relaxed: bool = True
    """The language-aware score matches definite and bare forms."""
    yes_no_policy: YesNoPolicy = YesNoPolicy.ASKED_LANGUAGE
    """Whether another language's yes or no counts."""
    blind: bool = True
    """Also answer every question with a blank image."""
    seed: int = 0
    """Of the bootstrap."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """What came of it."""

    metrics: dict[str, MetricValue]
    predictions: pa.Table
    majority_answers: dict[GroupKey, MajorityAnswer]

    def scalars(self) -> dict[str, float]:
        """Metric name -> percent, as a tracker wants it."""
        return {name: metric.value for name, metric in self.metrics.items()}

    def save(self, folder: Path) -> None:
        """Write predictions.parquet and metrics.json."""
        write_predictions(folder / FILE_NAME, self.predictions)
        majority = {"/".join(key): to_plain(best) for key, best in self.majority_answers.items()}
        content = {"metrics": to_plain(self.metrics), "majority_answers": majority}
        text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
        atomic_write_text(folder / METRICS_FILE, text + "\n")


def evaluate(
    answerer: Answerer,
    items: Sequence[BenchmarkItem],
    options: EvaluationOptions,
    *,
    output_folder: Path | None = None,
) -> EvaluationResult:
    """Answer and score every item; write the files if a folder is given.

    Raises:
        DataError: no items, or an answerer that left some out.
        ConfigError: a prompt style or yes/no words that a language lacks.
    """
    if not items:
        raise DataError("nothing to evaluate: the benchmark gave no items; check the languages")
    languages = sorted({item.language for item in items})
    book = load_prompts(languages, style=options.prompt_style)
    parser = YesNoParser(book.yes_no_words, policy=options.yes_no_policy)
    scorer = Scorer(parser, relaxed=options.relaxed)
    # Before the model is asked: a benchmark that can't be scored should fail in seconds.
    baseline = majority_baseline(items, scorer)
    replies = _answer(answerer, [book.question(item) for item in items])
    blind = None
    if options.blind:
        blank = blank_image()
        blind = _answer(answerer, [book.question(item, image=blank) for item in items])
    table = _columns_of_items(items, scorer, [book.question_text(item) for item in items])
    table |= _columns_of_replies(items, scorer, replies, ReplyLanguage(items, languages))
    table |= _columns_of_baselines(items, scorer, blind, baseline)
    predictions = pa.table({name: table[name] for name in SCHEMA.names}, schema=SCHEMA)
    result = EvaluationResult(
        metrics=aggregate(predictions, seed=options.seed),
        predictions=predictions,
        majority_answers=baseline.answers,
    )
    if output_folder is not None:
        result.save(output_folder)
    return result


def blank_image() -> bytes:
    """The image that shows nothing: plain white, the background the others stand on."""
    buffer = io.BytesIO()
    Image.new("RGB", _BLANK_SIZE, _BLANK_COLOUR).save(buffer, format="PNG")
    return buffer.getvalue()


def _answer(answerer: Answerer, questions: Sequence[Question]) -> list[ModelReply]:
    """Ask each distinct question once; with the blank image, many are equal."""
    # Questions about the same image are adjacent, so the prompt prefix that they share is computed
    # once. Images keep the order in which they first appear.
    image_order: dict[bytes, int] = {}
    for question in questions:
        image_order.setdefault(question.image, len(image_order))
    distinct = sorted(dict.fromkeys(questions), key=lambda question: image_order[question.image])
    replies = answerer.answer(distinct)
    if len(replies) != len(distinct):
        raise DataError(f"{len(distinct)} questions got {len(replies)} replies; expected one each")
    reply_of = dict(zip(distinct, replies, strict=True))
    return [reply_of[question] for question in questions]


def _columns_of_items(
    items: Sequence[BenchmarkItem], scorer: Scorer, prompts: Sequence[str]
) -> dict[str, list[object]]:
    return {
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
        "expected": [scorer.expected(item) for item in items],
    }


def _columns_of_replies(
    items: Sequence[BenchmarkItem],
    scorer: Scorer,
    replies: Sequence[ModelReply],
    reply_language: ReplyLanguage,
) -> dict[str, list[object]]:
    scores = _scores(items, scorer, replies)
    return {
        "output": [reply.text for reply in replies],
        "parsed": [score.parsed for score in scores],
        "score": [score.score for score in scores],
        "score_aware": [score.score_aware for score in scores],
        "language_identified": [reply_language.identify(reply.text) for reply in replies],
        "num_tokens": [reply.num_tokens for reply in replies],
        "is_truncated": [reply.is_truncated for reply in replies],
    }


def _columns_of_baselines(
    items: Sequence[BenchmarkItem],
    scorer: Scorer,
    blind: Sequence[ModelReply] | None,
    baseline: MajorityBaseline,
) -> dict[str, list[object]]:
    scores = [] if blind is None else _scores(items, scorer, blind)
    nothing: list[object] = [None] * len(items)
    aware = [None if np.isnan(value) else float(value) for value in baseline.scores_aware]
    return {
        "blind_output": nothing if blind is None else [reply.text for reply in blind],
        "blind_score": [score.score for score in scores] or nothing,
        "blind_score_aware": [score.score_aware for score in scores] or nothing,
        "majority_score": [float(value) for value in baseline.scores],
        "majority_score_aware": list(aware),
        "chance_score": [chance_score(item) for item in items],
    }


def _scores(
    items: Sequence[BenchmarkItem], scorer: Scorer, replies: Sequence[ModelReply]
) -> list[ItemScore]:
    return [scorer.score(item, reply.text) for item, reply in zip(items, replies, strict=True)]

"""Evaluation of a model on a benchmark: replies with and without the image, scores and metrics.

No Trainer is needed, and decoding is not constrained to a language. Every item becomes a row of the
predictions.
"""

import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import pyarrow as pa
from PIL import Image

from core.config import to_plain
from core.errors import DataError
from core.io.files import atomic_write_text
from evaluation.answerers.base import Answerer, ModelReply
from evaluation.answers.refusals import RefusalDetector
from evaluation.answers.yes_no import YesNoParser, YesNoPolicy
from evaluation.asking import AskingConfig
from evaluation.benchmarks.items import Benchmark, BenchmarkItem
from evaluation.benchmarks.predictions import PREDICTIONS_FILE, write_predictions
from evaluation.benchmarks.prompting import BARE_STYLE, PromptBook, load_prompts
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.benchmarks.reply_limits import ReplyLimits
from evaluation.metrics.aggregate import MetricValue, aggregate
from evaluation.metrics.baselines import GroupKey, MajorityAnswer, majority_baseline
from evaluation.metrics.reply_language import ReplyLanguage
from evaluation.metrics.scorer import Scorer
from evaluation.option_likelihood import OptionRater, likeliest_replies
from evaluation.rows import RowBuilder
from evaluation.wordings import ask_wordings, save_wordings, wording_metrics

_METRICS_FILE = "metrics.json"

_BLANK_SIZE = (128, 128)
_BLANK_COLOR = (255, 255, 255)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationOptions:
    """Options of an evaluation."""

    prompt_style: str = BARE_STYLE
    """Style of the templates in the prompt files."""
    limits: ReplyLimits = dataclasses.field(default_factory=ReplyLimits)
    """Maximum lengths of the replies, also of those about a blank or another image."""
    relaxed: bool = True
    """Match definite and bare forms in the language-aware score."""
    yes_no_policy: YesNoPolicy = YesNoPolicy.ASKED_LANGUAGE
    """Languages in which a yes or no is accepted."""
    blind: bool = True
    """Also ask every question with a blank image."""
    guided_choice: bool = False
    """Allow only the options as replies to multiple-choice questions."""
    wordings: tuple[str, ...] = ()
    """Further styles with which questions are asked, to see how scores depend on the wording."""
    seed: int = 0
    """Seed of the bootstrap."""

    @classmethod
    def from_config(
        cls,
        config: AskingConfig,
        *,
        blind: bool,
        guided_choice: bool = False,
        wordings: Sequence[str] = (),
    ) -> Self:
        """Return the options that a configuration describes."""
        return cls(
            prompt_style=config.prompt_style,
            limits=config.limits,
            relaxed=config.relaxed,
            yes_no_policy=config.yes_no_policy,
            blind=blind,
            guided_choice=guided_choice,
            wordings=tuple(wordings),
        )

    def load_prompts(self, languages: Iterable[str], *, style: str = "") -> PromptBook:
        """Return the prompts of some languages in this or another style, with these limits."""
        return load_prompts(
            languages,
            style=style or self.prompt_style,
            limits=self.limits,
            guided_choice=self.guided_choice,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """Metrics and predictions of an evaluation."""

    options: EvaluationOptions
    metrics: dict[str, MetricValue]
    predictions: pa.Table
    majority_answers: dict[GroupKey, MajorityAnswer]
    wordings: pa.Table | None = None
    """Replies to further wordings of the questions (`evaluation.wordings`)."""

    def save(self, folder: Path) -> None:
        """Write predictions.parquet, metrics.json and wordings.parquet, if any, to a folder."""
        write_predictions(folder / PREDICTIONS_FILE, self.predictions)
        if self.wordings is not None:
            save_wordings(self.wordings, folder)
        main = self.predictions["dataset"][0].as_py()
        majority = {
            "/".join(key[1:] if key[0] == main else key): to_plain(best)
            for key, best in self.majority_answers.items()
        }
        content = {
            "options": to_plain(self.options),
            "metrics": to_plain(self.metrics),
            "majority_answers": majority,
        }
        text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
        atomic_write_text(folder / _METRICS_FILE, text + "\n")


def evaluate(
    answerer: Answerer,
    items: Sequence[BenchmarkItem],
    options: EvaluationOptions,
    *,
    output_folder: Path | None = None,
    rater: OptionRater | None = None,
) -> EvaluationResult:
    """Ask and score every item.

    Args:
        answerer: The model.
        items: Items of one or more benchmarks. The benchmark of the first item is the main one:
            the names of its metrics have no prefix.
        options: Options of the evaluation.
        output_folder: Folder for the files of the result; None to write no files.
        rater: The same model, which rates the options of closed questions; None to leave this out.

    Raises:
        DataError: If there are no items, or the answerer returns too few or too many replies.
        ConfigError: If a language lacks the prompt style or the words for yes and no.
    """
    if not items:
        raise DataError("nothing to evaluate: the benchmark has no items; check the languages")
    languages = sorted({item.language for item in items})
    book = options.load_prompts(languages)
    parser = YesNoParser(book.yes_no_words, policy=options.yes_no_policy)
    scorer = Scorer(parser, choice_words=book.choice_words, relaxed=options.relaxed)
    # Computed before the model is asked, so that a benchmark that can't be scored fails at once.
    baseline = majority_baseline(items, scorer)
    replies = _answer(answerer, [book.question(item) for item in items])
    blind, blank = None, blank_image()
    if options.blind:
        blind = _answer(answerer, [book.question(item, image=blank) for item in items])
    rows = RowBuilder(
        items=items,
        scorer=scorer,
        reply_language=ReplyLanguage(items, languages),
        refusals=RefusalDetector(book.refusal_phrases),
        guided=frozenset({Benchmark.MULTIPLE_CHOICE} if options.guided_choice else ()),
    )
    prompts = [book.question_text(item) for item in items]
    likeliest = None if rater is None else likeliest_replies(rater, items, book)
    blind_likeliest = (
        likeliest_replies(rater, items, book, image=blank) if rater and options.blind else None
    )
    predictions = rows.build(prompts, replies, blind, baseline, likeliest, blind_likeliest)
    metrics, wordings = aggregate(predictions, seed=options.seed), None
    if options.wordings:
        books = {name: options.load_prompts(languages, style=name) for name in options.wordings}
        wordings = ask_wordings(partial(_answer, answerer), items, books, scorer)
        metrics |= wording_metrics(predictions, wordings, options.prompt_style, seed=options.seed)
    result = EvaluationResult(
        options=options,
        metrics=metrics,
        predictions=predictions,
        majority_answers=baseline.answers,
        wordings=wordings,
    )
    if output_folder is not None:
        result.save(output_folder)
    return result


def blank_image() -> bytes:
    """Return an encoded white image, the background color of the embedded images."""
    buffer = io.BytesIO()
    Image.new("RGB", _BLANK_SIZE, _BLANK_COLOR).save(buffer, format="PNG")
    return buffer.getvalue()


def _answer(answerer: Answerer, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
    """Ask each distinct question once; with the blank image, many are equal."""
    # Questions of one limit share batches. Among them, questions about the same image are adjacent,
    # so the prompt prefix that they share is computed once. Images keep the order in which they
    # first appear.
    image_order: dict[bytes, int] = {}
    for question in questions:
        image_order.setdefault(question.image, len(image_order))
    distinct = sorted(
        dict.fromkeys(questions),
        key=lambda question: (question.max_new_tokens, image_order[question.image]),
    )
    replies = answerer.answer(distinct)
    if len(replies) != len(distinct):
        raise DataError(f"{len(distinct)} questions got {len(replies)} replies; expected one each")
    reply_of = dict(zip(distinct, replies, strict=True))
    return [reply_of[question] for question in questions]

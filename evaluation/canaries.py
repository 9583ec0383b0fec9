"""Sanity checks of an evaluation: replies depend on the image, but not on the batch.

An evaluation that shows the wrong image, or whose replies depend on the other questions of the
batch, produces plausible numbers. Every evaluation therefore asks some of its questions again.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.config import to_plain
from core.io.files import atomic_write_text
from core.rng import named_rng
from evaluation.answerers.base import Answerer
from evaluation.answers.yes_no import YesNoParser
from evaluation.benchmarks.items import BenchmarkItem
from evaluation.benchmarks.prompting import load_prompts
from evaluation.metrics.scorer import Scorer
from evaluation.runner import EvaluationOptions, EvaluationResult
from evaluation.statistics.intervals import Interval, paired_difference

CANARIES_FILE = "canaries.json"
_MAX_SHUFFLED, _MAX_UNBATCHED = 320, 32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScoreDrop:
    """Drop of the official score without the right image, in points, with its 95 % interval.

    The bounds are None if there are too few images for an interval.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    num_images: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Canaries:
    """Results of the checks of one evaluation."""

    shuffled: ScoreDrop | None
    """Drop if every question is asked about another item's image; None if there is one image."""
    blank: ScoreDrop | None
    """Drop if every question is asked about a blank image; None if the blind run was skipped."""
    num_alone: int
    """Number of questions that were asked again one at a time."""
    num_changed: int
    """Number of these questions that got another reply."""

    def save(self, folder: Path) -> None:
        """Write canaries.json to a folder."""
        text = json.dumps(to_plain(self), indent=1, allow_nan=False)
        atomic_write_text(folder / CANARIES_FILE, text + "\n")


def run_canaries(
    answerer: Answerer,
    alone: Answerer,
    items: Sequence[BenchmarkItem],
    result: EvaluationResult,
    options: EvaluationOptions,
) -> Canaries:
    """Ask some questions of an evaluation again.

    Args:
        answerer: The answerer of the evaluation.
        alone: An answerer of the same model with a batch size of 1.
        items: The items of the evaluation.
        result: The result of the evaluation.
        options: The options of the evaluation.
    """
    book = load_prompts({item.language for item in items}, style=options.prompt_style)
    scorer = Scorer(
        YesNoParser(book.yes_no_words, policy=options.yes_no_policy),
        choice_words=book.choice_words,
        relaxed=options.relaxed,
    )
    table = result.predictions
    order = named_rng(options.seed, "canaries").permutation(len(items))
    sampled = sorted(order[:_MAX_SHUFFLED].tolist())
    repeated = sorted(order[:_MAX_UNBATCHED].tolist())
    answers = alone.answer([book.question(items[at]) for at in repeated])
    outputs = table["output"]
    changed = sum(
        reply.text != outputs[at].as_py() for at, reply in zip(repeated, answers, strict=True)
    )
    own = np.asarray(table["score"].to_numpy())
    keys = [item.image_key for item in items]
    others, shuffled = other_images(items, sampled, options.seed), None
    if others:
        replies = answerer.answer(
            [
                book.question(items[at], image=items[other].image)
                for at, other in zip(sampled, others, strict=True)
            ]
        )
        pairs = zip(sampled, replies, strict=True)
        wrong = np.array([scorer.score(items[at], reply.text).score for at, reply in pairs])
        shuffled = _score_drop(own[sampled], wrong, [keys[at] for at in sampled], options.seed)
    blind = table["blind_score"]
    return Canaries(
        shuffled=shuffled,
        blank=None
        if blind.null_count
        else _score_drop(own, np.asarray(blind.to_numpy()), keys, options.seed),
        num_alone=len(repeated),
        num_changed=changed,
    )


def other_images(items: Sequence[BenchmarkItem], chosen: Sequence[int], seed: int) -> list[int]:
    """Return for each chosen item the index of an item with another image; [] if there is none."""
    keys = sorted({items[at].image_key for at in chosen})
    if len(keys) < 2:  # noqa: PLR2004 - a swap needs two images
        return []
    first = {items[at].image_key: at for at in reversed(chosen)}
    shuffled = named_rng(seed, "canaries", "pictures").permutation(len(keys))
    ring = [keys[i] for i in shuffled]
    following = dict(zip(ring, [*ring[1:], ring[0]], strict=True))
    return [first[following[items[at].image_key]] for at in chosen]


def _score_drop(own: np.ndarray, without: np.ndarray, images: list[str], seed: int) -> ScoreDrop:
    interval: Interval = paired_difference(own, without, np.asarray(images), seed=seed)
    return ScoreDrop(
        value=100 * interval.value,
        low=None if interval.low is None else 100 * interval.low,
        high=None if interval.high is None else 100 * interval.high,
        n=interval.num_items,
        num_images=interval.num_clusters,
    )

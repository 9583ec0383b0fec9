"""Cheap checks that an evaluation measured what it says: images matter, batches don't.

A harness that feeds the wrong image, or whose answers depend on who else is in the batch, gives
numbers like any other. Each evaluation asks a few questions again to see.
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

FILE_NAME = "canaries.json"
_MOST_SHUFFLED, _MOST_ALONE = 320, 32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What taking the right image away costs, in points of the official score."""

    value: float
    low: float
    high: float
    n: int
    num_images: int

    @property
    def is_seen(self) -> bool:
        """Whether it is above zero beyond doubt (the 95 % interval)."""
        return self.low > 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Canaries:
    """What came of the checks."""

    shuffled: Cost | None
    """Every question with the image of another; None where there is one image."""
    blank: Cost | None
    """Every question with a blank image; None where that was not asked."""
    num_alone: int
    """Questions asked again one at a time."""
    num_changed: int
    """Of these, with another answer."""

    def save(self, folder: Path) -> None:
        """Write canaries.json."""
        text = json.dumps(to_plain(self), indent=1, allow_nan=False)
        atomic_write_text(folder / FILE_NAME, text + "\n")


def run_canaries(
    answerer: Answerer,
    alone: Answerer,
    items: Sequence[BenchmarkItem],
    result: EvaluationResult,
    options: EvaluationOptions,
) -> Canaries:
    """Ask some questions again.

    Args:
        answerer: of the evaluation.
        alone: the same model, one question at a time.
        items: of the evaluation.
        result: its result.
        options: its options.
    """
    book = load_prompts({item.language for item in items}, style=options.prompt_style)
    scorer = Scorer(
        YesNoParser(book.yes_no_words, policy=options.yes_no_policy), relaxed=options.relaxed
    )
    table = result.predictions
    order = named_rng(options.seed, "canaries").permutation(len(items))
    chosen = sorted(order[:_MOST_SHUFFLED].tolist())
    again = sorted(order[:_MOST_ALONE].tolist())
    answers = alone.answer([book.question(items[at]) for at in again])
    outputs = table["output"]
    changed = sum(
        reply.text != outputs[at].as_py() for at, reply in zip(again, answers, strict=True)
    )
    own = np.asarray(table["score"].to_numpy())
    keys = [item.image_key for item in items]
    others, shuffled = other_images(items, chosen, options.seed), None
    if others:
        replies = answerer.answer(
            [
                book.question(items[at], image=items[other].image)
                for at, other in zip(chosen, others, strict=True)
            ]
        )
        pairs = zip(chosen, replies, strict=True)
        wrong = np.array([scorer.score(items[at], reply.text).score for at, reply in pairs])
        shuffled = _cost(own[chosen], wrong, [keys[at] for at in chosen], options.seed)
    blind = table["blind_score"]
    return Canaries(
        shuffled=shuffled,
        blank=None
        if blind.null_count
        else _cost(own, np.asarray(blind.to_numpy()), keys, options.seed),
        num_alone=len(again),
        num_changed=changed,
    )


def other_images(items: Sequence[BenchmarkItem], chosen: Sequence[int], seed: int) -> list[int]:
    """For each chosen item another one that shows another image; [] where there is none."""
    keys = sorted({items[at].image_key for at in chosen})
    if len(keys) < 2:  # noqa: PLR2004 - an image and another one
        return []
    first = {items[at].image_key: at for at in reversed(chosen)}
    turned = named_rng(seed, "canaries", "pictures").permutation(len(keys))
    ring = [keys[i] for i in turned]
    following = dict(zip(ring, [*ring[1:], ring[0]], strict=True))
    return [first[following[items[at].image_key]] for at in chosen]


def _cost(own: np.ndarray, without: np.ndarray, images: list[str], seed: int) -> Cost:
    interval: Interval = paired_difference(own, without, np.asarray(images), seed=seed)
    return Cost(
        value=100 * interval.value,
        low=100 * interval.low,
        high=100 * interval.high,
        n=interval.num_items,
        num_images=interval.num_clusters,
    )

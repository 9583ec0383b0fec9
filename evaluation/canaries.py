"""Sanity checks of an evaluation: replies depend on the image, but not on the batch.

An evaluation that shows the wrong image, or whose replies depend on the other questions of the
batch, produces plausible numbers. So does a model that ignores the image in one language or for one
kind of question. Every evaluation therefore asks some of its questions again, and tests for each
benchmark, kind, answer type and language whether the image matters.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np
import pyarrow as pa

from core.config import to_plain
from core.io.files import atomic_write_text
from core.rng import named_rng
from evaluation.answerers.base import Answerer
from evaluation.answers.yes_no import YesNoParser
from evaluation.benchmarks.items import Benchmark, BenchmarkItem
from evaluation.benchmarks.reasked import NUM_ALONE, shuffled_per_group
from evaluation.metrics.baseline_tests import one_sided_p_value
from evaluation.metrics.baselines import GroupKey, group_key
from evaluation.metrics.scorer import Scorer, normalised_score
from evaluation.runner import EvaluationOptions, EvaluationResult
from evaluation.statistics.decisions import ALPHA
from evaluation.statistics.intervals import paired_difference
from evaluation.statistics.multiple_testing import holm
from evaluation.statistics.uncertainty import MIN_CLUSTERS

CANARIES_FILE = "canaries.json"
_MIN_IMAGES_TO_SWAP = 2


class ImageUse(StrEnum):
    """Conclusion about a group of questions."""

    USED = "uses the image"
    """The blank image costs accuracy, after correction for the number of groups, and so does the
    image of another question."""
    UNDECIDED = "undecided"
    """The blank image costs accuracy only without the correction, or the wrong image does not."""
    NOT_USED = "does not use the image"
    """The blank image costs no accuracy that these questions can show."""
    TOO_FEW = "too few images"
    """Fewer than 10 images, which can't show anything."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScoreDrop:
    """Drop of the score without the right image, in points, with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    n: int
    num_images: int
    p_value: float
    """p-value of the one-sided test for a drop of the score, with Holm correction over groups."""
    p_uncorrected: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageUseCheck:
    """Loss of accuracy of one group of questions without the right image."""

    dataset: str
    kind: str
    answer_type: str
    language: str
    blank: ScoreDrop | None
    """Drop if every question is asked about a blank image; None if the blind run was skipped."""
    shuffled: ScoreDrop | None
    """Drop if sampled questions are asked about the image of another; None with one image."""
    verdict: ImageUse


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Canaries:
    """Results of the checks of one evaluation."""

    groups: tuple[ImageUseCheck, ...]
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
    book = options.load_prompts({item.language for item in items})
    scorer = Scorer(
        YesNoParser(book.yes_no_words, policy=options.yes_no_policy),
        choice_words=book.choice_words,
        relaxed=options.relaxed,
    )
    order = named_rng(options.seed, "canaries").permutation(len(items))
    repeated = sorted(order[:NUM_ALONE].tolist())
    answers = alone.answer([book.question(items[at]) for at in repeated])
    outputs = result.predictions["output"]
    changed = sum(
        reply.text != outputs[at].as_py() for at, reply in zip(repeated, answers, strict=True)
    )
    swaps = swap_images(items, options.seed)
    replies = answerer.answer(
        [book.question(items[at], image=items[other].image) for at, other in swaps.items()]
    )
    wrong = {
        at: normalised_score(scorer.score(items[at], reply.text))
        for at, reply in zip(swaps, replies, strict=True)
    }
    return Canaries(
        groups=check_image_use(result.predictions, wrong, seed=options.seed),
        num_alone=len(repeated),
        num_changed=changed,
    )


def swap_images(items: Sequence[BenchmarkItem], seed: int) -> dict[int, int]:
    """Sample items of every group and choose another item of the group with another image.

    Up to 640 items are sampled, equally many of each group, but up to 20 of every group in any
    case. Groups with one image and those without reference answers are left out.

    Returns:
        Index of each sampled item, in ascending order, and of the item whose image it gets.
    """
    groups: dict[GroupKey, list[int]] = {}
    for at, item in enumerate(items):
        if item.benchmark is not Benchmark.WILD:
            groups.setdefault(group_key(item), []).append(at)
    size = shuffled_per_group(len(groups))
    swaps: dict[int, int] = {}
    for key, members in groups.items():
        rng = named_rng(seed, "canaries", *key)
        chosen = sorted(members[at] for at in rng.permutation(len(members))[:size])
        first = {items[at].image_key: at for at in reversed(chosen)}
        if len(first) < _MIN_IMAGES_TO_SWAP:
            continue
        images = sorted(first)
        ring = [images[at] for at in rng.permutation(len(images))]
        following = dict(zip(ring, [*ring[1:], ring[0]], strict=True))
        swaps |= {at: first[following[items[at].image_key]] for at in chosen}
    return dict(sorted(swaps.items()))


def check_image_use(
    table: pa.Table, wrong_image: Mapping[int, float], *, seed: int
) -> tuple[ImageUseCheck, ...]:
    """Test for every group of questions whether the image matters.

    Scores are those of lmms-eval for vqa, which do not depend on capital letters, and the official
    ones otherwise. Benchmarks without reference answers are left out.

    Args:
        table: Predictions of the evaluation.
        wrong_image: Row and score of the questions that were asked about another image.
        seed: Seed of the intervals.
    """
    names = ("dataset", "benchmark", "answer_type", "language")
    keys = list(zip(*(table[name].to_pylist() for name in names), strict=True))
    kinds = [key for key in dict.fromkeys(keys) if key[1] != Benchmark.WILD]
    own, blank = _normalised_column(table, ""), _normalised_column(table, "blind_")
    images = np.asarray(table["image_key"].to_pylist())
    drops: dict[str, list[ScoreDrop | None]] = {"blank": [], "shuffled": []}
    for key in kinds:
        rows = [at for at, other in enumerate(keys) if other == key]
        swapped = [at for at in rows if at in wrong_image]
        wrong = np.array([wrong_image[at] for at in swapped])
        has_blank = not np.isnan(blank[rows]).any()
        drops["blank"].append(
            _score_drop(own[rows], blank[rows], images[rows], seed) if has_blank else None
        )
        drops["shuffled"].append(
            _score_drop(own[swapped], wrong, images[swapped], seed) if swapped else None
        )
    checks = zip(kinds, *(_apply_holm_to_drops(found) for found in drops.values()), strict=True)
    return tuple(
        ImageUseCheck(
            dataset=key[0],
            kind=key[1],
            answer_type=key[2],
            language=key[3],
            blank=blank_drop,
            shuffled=shuffled_drop,
            verdict=_conclude(blank_drop, shuffled_drop),
        )
        for key, blank_drop, shuffled_drop in checks
    )


def _conclude(blank: ScoreDrop | None, shuffled: ScoreDrop | None) -> ImageUse:
    decisive = blank or shuffled
    if decisive is None or decisive.num_images < MIN_CLUSTERS:
        return ImageUse.TOO_FEW
    if decisive.p_uncorrected > ALPHA:
        return ImageUse.NOT_USED
    # A model may notice that the image is blank without using the content of any other image.
    is_contradicted = shuffled is not None and shuffled.value <= 0
    is_shown = decisive.p_value <= ALPHA and not is_contradicted
    return ImageUse.USED if is_shown else ImageUse.UNDECIDED


def _normalised_column(table: pa.Table, prefix: str) -> np.ndarray:
    score, lmms = (
        np.asarray(table[f"{prefix}{name}"].to_numpy(), dtype=np.float64)
        for name in ("score", "score_lmms")
    )
    return np.where(np.isnan(lmms), score, lmms)


def _apply_holm_to_drops(drops: Sequence[ScoreDrop | None]) -> list[ScoreDrop | None]:
    corrected = iter(holm([drop.p_uncorrected for drop in drops if drop is not None]).tolist())
    return [
        None if drop is None else dataclasses.replace(drop, p_value=next(corrected))
        for drop in drops
    ]


def _score_drop(own: np.ndarray, without: np.ndarray, images: np.ndarray, seed: int) -> ScoreDrop:
    interval = paired_difference(own, without, images, seed=seed)
    p_value = one_sided_p_value(own - without, images)
    return ScoreDrop(
        value=100 * interval.value,
        low=None if interval.low is None else 100 * interval.low,
        high=None if interval.high is None else 100 * interval.high,
        n=interval.num_items,
        num_images=interval.num_clusters,
        p_value=p_value,
        p_uncorrected=p_value,
    )

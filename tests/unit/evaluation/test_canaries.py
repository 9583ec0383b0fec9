"""The checks distinguish a model that uses the image, and detect replies that depend on a batch."""

import dataclasses
import json
from collections import Counter

import pyarrow as pa
import pytest

from core.rng import named_rng
from evaluation.answerers.base import ModelReply
from evaluation.benchmarks.items import load_benchmark
from evaluation.benchmarks.predictions import SCHEMA
from evaluation.canaries import (
    CANARIES_FILE,
    ImageUse,
    check_image_use,
    run_canaries,
    swap_images,
)
from evaluation.metrics.baselines import group_key
from evaluation.runner import EvaluationOptions, evaluate
from tests.support.evaluation_doubles import Oracle, small_benchmark


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return load_benchmark(small_benchmark(tmp_path_factory.mktemp("benchmark")))


class ConstantAnswerer:
    """Always gives the same reply."""

    def __init__(self, text):
        self.text = text

    def answer(self, questions):
        return [ModelReply(text=self.text, num_tokens=1, is_truncated=False)] * len(questions)


def check(items, model, alone=None, **options):
    settings = EvaluationOptions(**options)
    result = evaluate(model, items, settings)
    return run_canaries(model, alone or model, items, result, settings)


def test_a_model_that_uses_the_image_loses_points_on_the_wrong_one(items, tmp_path):
    found = check(items, Oracle(items))
    assert len(found.groups) == 10
    assert {group.verdict for group in found.groups} == {ImageUse.USED}
    for group in found.groups:
        assert group.blank.low > 0
        assert (group.blank.n, group.blank.num_images) == (12, 12)
        assert group.shuffled.value > 0
        assert group.blank.p_value >= group.blank.p_uncorrected
    assert (found.num_alone, found.num_changed) == (32, 0)
    found.save(tmp_path)
    stored = json.loads((tmp_path / CANARIES_FILE).read_text())["groups"][0]
    assert (stored["dataset"], stored["kind"]) == ("benchmark_test", "vqa")
    assert stored["verdict"] == "uses the image"


def test_a_model_that_ignores_the_image_loses_nothing(items):
    found = check(items, ConstantAnswerer("bai"))
    assert {group.verdict for group in found.groups} == {ImageUse.NOT_USED}
    assert all(group.blank.value == group.shuffled.value == 0 for group in found.groups)


def test_answers_that_depend_on_the_batch_are_counted(items):
    found = check(items, ConstantAnswerer("bai"), alone=ConstantAnswerer("ez"), blind=False)
    assert found.num_changed == found.num_alone == 32
    assert all(group.blank is None for group in found.groups)
    assert {group.verdict for group in found.groups} == {ImageUse.NOT_USED}


def test_every_sampled_item_gets_the_image_of_another_of_its_group(items):
    swaps = swap_images(items, seed=3)
    assert list(swaps) == list(range(len(items)))
    for at, other in swaps.items():
        assert items[at].image_key != items[other].image_key
        assert group_key(items[at]) == group_key(items[other])
    one = [item for item in items if item.image_key == items[0].image_key]
    assert swap_images(one, seed=3) == {}


def test_the_sample_is_balanced_over_groups(items):
    rare = items[:10]
    many = [
        dataclasses.replace(item, question_id=f"{item.question_id}-{copy}")
        for copy in range(100)
        for item in items
        if item.answer_type == "number"
    ]
    swaps = swap_images([*rare, *many], seed=0)
    counts = Counter(group_key([*rare, *many][at]) for at in swaps)
    assert sum(counts.values()) <= 640
    assert all(count == 64 for count in counts.values())
    assert len(counts) == 2  # the others have one image only


GENERAL_SHARE0_TXT = {
    ("vqa", "other", "en"): (0.45, 0.02), ("vqa", "number", "en"): (0.55, 0.3),
    ("vqa", "yes/no", "en"): (0.7, 0.5), ("mc", "choice", "en"): (0.75, 0.3),
    ("capqa", "yes/no", "en"): (0.6, 0.3),
    ("vqa", "other", "eu"): (0.016, 0.021), ("vqa", "number", "eu"): (0.225, 0.25),
    ("vqa", "yes/no", "eu"): (0.508, 0.508), ("mc", "choice", "eu"): (0.288, 0.3),
    ("capqa", "yes/no", "eu"): (0.304, 0.5),
}  # fmt: skip
"""Score with and without the image of the cell of finding H4, by kind, answer type, language."""


def synthetic_predictions(scores, num_images=300, *, is_paired=True):
    """Return predictions with these scores; easy items are easy without the image, too."""
    rng, rows = named_rng(0, "H4"), []
    for (kind, answer_type, language), (seeing, blind) in scores.items():
        for at in range(num_images):
            row = dict.fromkeys(SCHEMA.names)
            hard, other = rng.random(2)
            own, without = float(hard < seeing), float((hard if is_paired else other) < blind)
            row |= {"dataset": "b", "question_id": f"{kind}{answer_type}{at}", "benchmark": kind,
                    "answer_type": answer_type, "language": language, "image_key": str(at),
                    "score": own, "blind_score": without}  # fmt: skip
            if kind == "vqa":
                row |= {"score_lmms": own, "blind_score_lmms": without}
            rows.append(row)
    fields = [field.with_nullable(True) for field in SCHEMA]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def test_a_language_that_ignores_the_image_is_flagged_although_the_other_uses_it():
    """Finding H4: pooled over languages and kinds, this cell loses 13 points and passed."""
    table = synthetic_predictions(GENERAL_SHARE0_TXT)
    verdicts = {
        (check.kind, check.answer_type, check.language): check.verdict
        for check in check_image_use(table, {}, seed=0)
    }
    assert len(verdicts) == 10
    for (_, _, language), verdict in verdicts.items():
        assert verdict is (ImageUse.NOT_USED if language == "eu" else ImageUse.USED)
    own, blind = (table[name].to_numpy().mean() for name in ("score", "blind_score"))
    assert own - blind > 0.1


@pytest.mark.slow
def test_one_of_many_groups_is_rarely_called_seeing_by_chance():
    """Holm over the groups of an evaluation: 5 % for all of them together."""
    scores = {("vqa", f"type{at}", "eu"): (0.5, 0.5) for at in range(20)}
    num_seeing = sum(
        any(check.verdict is ImageUse.USED for check in checks)
        for checks in (
            check_image_use(synthetic_predictions(scores, 40 + at, is_paired=False), {}, seed=0)
            for at in range(20)
        )
    )
    assert num_seeing <= 3


def test_a_blank_image_that_costs_more_than_a_wrong_one_decides_nothing():
    table = synthetic_predictions({("vqa", "other", "eu"): (0.6, 0.1)}, 40)
    wrong = dict(enumerate(table["score"].to_pylist()))
    (check,) = check_image_use(table, wrong, seed=0)
    assert check.verdict is ImageUse.UNDECIDED
    (few,) = check_image_use(table.slice(0, 9), wrong, seed=0)
    assert few.verdict is ImageUse.TOO_FEW

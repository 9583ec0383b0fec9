"""The checks distinguish a model that uses the image, and detect replies that depend on a batch."""

import json

import pytest

from evaluation.answerers.base import ModelReply
from evaluation.benchmarks.items import load_benchmark
from evaluation.canaries import CANARIES_FILE, other_images, run_canaries
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
    assert found.shuffled.low > 0
    assert found.blank.low > 0
    assert found.shuffled.value > 50
    assert (found.num_alone, found.num_changed) == (32, 0)
    assert (found.shuffled.n, found.shuffled.num_images) == (120, 12)
    found.save(tmp_path)
    assert json.loads((tmp_path / CANARIES_FILE).read_text())["shuffled"]["n"] == 120


def test_a_model_that_ignores_the_image_loses_nothing(items):
    found = check(items, ConstantAnswerer("bai"))
    assert found.shuffled.value == 0
    assert found.shuffled.low <= 0
    assert found.blank.low <= 0


def test_answers_that_depend_on_the_batch_are_counted(items):
    found = check(items, ConstantAnswerer("bai"), alone=ConstantAnswerer("ez"), blind=False)
    assert found.num_changed == found.num_alone == 32
    assert found.blank is None


def test_every_item_gets_the_image_of_another(items):
    everything = range(len(items))
    others = other_images(items, everything, seed=3)
    pairs = [
        (items[at].image_key, items[o].image_key) for at, o in zip(everything, others, strict=True)
    ]
    assert all(own != other for own, other in pairs)
    assert len({other for _, other in pairs}) == 12
    one = [at for at in everything if items[at].image_key == items[0].image_key]
    assert other_images(items, one, seed=3) == []

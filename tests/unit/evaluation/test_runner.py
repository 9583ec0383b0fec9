"""Scores, metrics and files of an evaluation, and the answerer around a model."""

import dataclasses
import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from core.chat.tokens import IMAGE_MARK
from core.errors import DataError
from core.samples import Role, Turn
from evaluation.answerers.base import ModelReply
from evaluation.answerers.vlm import VlmAnswerer
from evaluation.answers.yes_no import YesNoPolicy
from evaluation.benchmarks.items import load_benchmark
from evaluation.benchmarks.predictions import SCHEMA, read_predictions
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.benchmarks.reply_limits import ReplyLimits
from evaluation.canaries import run_canaries
from evaluation.runner import EvaluationOptions, blank_image, evaluate
from tests.support.doubles import NUM_IMAGE_TOKENS, make_chat
from tests.support.evaluation_doubles import Oracle, small_benchmark


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return small_benchmark(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="module")
def items(manifest):
    return load_benchmark(manifest)


@pytest.fixture(scope="module")
def chat():
    return make_chat()


def test_a_perfect_model_scores_100_and_half_when_blind(items, tmp_path):
    model = Oracle(items)
    result = evaluate(model, items, EvaluationOptions(), output_folder=tmp_path)
    for name in ("vqa/eu/accuracy", "vqa_aware/eu/accuracy", "mc/en/accuracy", "capqa/eu/f1"):
        assert result.metrics[name].value == 100.0
    accuracy = result.metrics["vqa/eu/accuracy"]
    assert (accuracy.n, accuracy.num_images, accuracy.ci_high) == (36, 12, 100.0)
    assert accuracy.ci_low < 100
    assert accuracy.majority == pytest.approx(100 * (0.3 + 1 / 3 + 0.5) / 3)
    # Without the image it replies "yes": half of the English yes/no, nothing of the Basque.
    assert accuracy.blind == 0
    assert result.metrics["vqa/en/yes_no"].blind == 50
    assert result.metrics["capqa/en/accuracy"].blind == 50
    types = [name for name in result.metrics if name.startswith("capqa/en/type/")]
    total = sum(result.metrics[name].n for name in types)
    assert total == result.metrics["capqa/en/accuracy"].n
    assert result.metrics["mc/eu/accuracy"].chance == 25
    assert result.metrics["vqa/en/accuracy"].chance is None
    assert result.metrics["capqa/eu/yes_ratio"].value == 50
    assert result.metrics["fidelity/eu"].value == 100
    assert result.metrics["truncated/eu"].value == 0
    assert result.metrics["vqa/eu/type/how_many"].n == 12
    # 60 (question, image) pairs of each language, and each distinct question once without one.
    assert model.asked == 120 + 10


def test_files_hold_predictions_and_metrics(items, tmp_path):
    model = Oracle(items, wrong=("name", "is it"))
    result = evaluate(model, items, EvaluationOptions(seed=3), output_folder=tmp_path)
    table = read_predictions(tmp_path / "predictions.parquet")
    assert table.equals(result.predictions)
    assert table.num_rows == len(items)
    row = table.slice(4 * 2, 1).to_pylist()[0]
    assert (row["output"], row["parsed"], row["expected"], row["score"]) == ("?", None, "no", 0.0)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["metrics"]["capqa/eu/unparsed"]["value"] == 100.0
    stored = content["metrics"]["vqa/eu/accuracy"]
    assert set(stored) >= {"value", "ci_low", "ci_high", "n", "num_images", "majority", "blind"}
    assert stored["value"] == pytest.approx(100 * 2 / 3)
    assert stored["ci_low"] <= stored["value"] <= stored["ci_high"]
    assert result.metrics["vqa/eu/other"].value == 0.0
    assert content["majority_answers"]["vqa/yes/no/eu"]["answer"] == "bai"
    again = evaluate(model, items, EvaluationOptions(seed=3), output_folder=tmp_path)
    assert again.metrics == result.metrics


def test_questions_about_an_image_are_asked_together(items):
    """In any order of the benchmark, so that their shared prefix is computed once."""
    asked = []

    class Recorder(Oracle):
        def answer(self, questions):
            asked.extend(question.image for question in questions)
            return super().answer(questions)

    mixed = sorted(items, key=lambda item: (item.language, item.question_id[::-1]))
    options = EvaluationOptions(blind=False)
    result = evaluate(Recorder(items), mixed, options)
    assert sum(a != b for a, b in itertools.pairwise(asked)) == len(set(asked)) - 1
    assert result.predictions["question_id"].to_pylist() == [item.question_id for item in mixed]
    assert result.metrics["vqa/eu/accuracy"].value == 100


def test_the_blind_run_can_be_skipped(items):
    result = evaluate(Oracle(items), items, EvaluationOptions(blind=False))
    assert result.metrics["vqa/eu/accuracy"].blind is None
    assert result.predictions["blind_output"].null_count == len(items)


def test_the_yes_no_policy_is_applied(items):
    class YesAnswerer:
        def answer(self, questions):
            return [ModelReply(text="yes", num_tokens=1, is_truncated=True) for _ in questions]

    strict = evaluate(YesAnswerer(), items, EvaluationOptions(blind=False))
    policy = YesNoPolicy.ANY_LANGUAGE
    lenient = evaluate(YesAnswerer(), items, EvaluationOptions(blind=False, yes_no_policy=policy))
    assert strict.metrics["capqa/eu/accuracy"].value == 0
    assert strict.metrics["capqa/eu/unparsed"].value == 100
    assert lenient.metrics["capqa/eu/accuracy"].value == 50
    assert strict.metrics["fidelity/eu"].value == 0
    assert strict.metrics["fidelity/en"].value == 100
    assert strict.metrics["truncated/en"].value == 100


@pytest.mark.slow
def test_relaxed_matching_is_applied(items):
    class DefiniteAnswerer:
        def answer(self, questions):
            return [
                ModelReply(text="txakurra", num_tokens=1, is_truncated=False) for _ in questions
            ]

    relaxed = evaluate(DefiniteAnswerer(), items, EvaluationOptions(blind=False))
    strict = evaluate(DefiniteAnswerer(), items, EvaluationOptions(blind=False, relaxed=False))
    assert relaxed.metrics["vqa_aware/eu/other"].value == 25
    assert strict.metrics["vqa_aware/eu/other"].value == 0


def test_invalid_files_and_answerers_are_errors(items, tmp_path):
    with pytest.raises(DataError, match="do not exist"):
        read_predictions(tmp_path / "predictions.parquet")
    other = tmp_path / "other.parquet"
    pa.parquet.write_table(pa.table({"score": [1.0]}), other)
    with pytest.raises(DataError, match="other columns"):
        read_predictions(other)
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate(Oracle(items), [], EvaluationOptions())

    class SilentAnswerer:
        def answer(self, questions):
            return []

    with pytest.raises(DataError, match="120 questions got 0 replies"):
        evaluate(SilentAnswerer(), items, EvaluationOptions())


def test_schema_names_are_unique():
    assert len(set(SCHEMA.names)) == len(SCHEMA.names)


class EchoModel:
    """Generates as many tokens as the first feature of its image says."""

    def __init__(self, chat):
        self.ids = chat.tokenizer.encode("etxe", add_special_tokens=False)
        self.calls = []
        self.allowed = []

    def generate(
        self, prompts, images, *, max_new_tokens, end_token_id, pad_token_id, batch_size, allowed
    ):
        self.allowed += allowed
        self.calls.append((len(prompts), max_new_tokens, end_token_id, pad_token_id, batch_size))
        assert all(isinstance(image, torch.Tensor) for image in images)
        return [self.ids[: int(image[0, 0])] for image in images]


def test_the_vlm_answerer_asks_in_slices_and_looks_up_each_image_once(chat):
    model, looked_up = EchoModel(chat), []

    def features(image: bytes) -> np.ndarray:
        looked_up.append(image)
        return np.full((NUM_IMAGE_TOKENS, 2), len(image), dtype=np.float32)

    answerer = VlmAnswerer(model, chat, features, batch_size=1)
    turns = (Turn(role=Role.USER, content=f"{IMAGE_MARK}\nZer da hau?"),)
    images = [b"x", b"xx", b"xxx", b"xx"] * 5
    replies = answerer.answer(
        [VisualQuestion(turns=turns, image=image, max_new_tokens=3) for image in images]
    )
    assert [reply.text for reply in replies[:4]] == ["e", "et", "etx", "et"]
    assert [reply.is_truncated for reply in replies[:4]] == [False, False, True, False]
    assert replies[2].num_tokens == 3
    # Slices of 16 prompts; each image is looked up once per slice, in order.
    assert [call[0] for call in model.calls] == [16, 4]
    assert model.calls[0][1:] == (3, chat.end_token_id, chat.pad_token_id, 1)
    assert looked_up == [b"x", b"xx", b"xxx"] * 2


def test_guided_questions_pass_the_ids_of_their_options_and_room_for_the_longest(chat):
    model = EchoModel(chat)
    answerer = VlmAnswerer(model, chat, lambda _: np.zeros((NUM_IMAGE_TOKENS, 2)), batch_size=4)
    turns = (Turn(role=Role.USER, content=f"{IMAGE_MARK}\nZer da hau?"),)
    free = VisualQuestion(turns=turns, image=b"x", max_new_tokens=3)
    guided = dataclasses.replace(free, options=("etxe", "txakurra"))
    answerer.answer([free, guided])
    assert model.allowed[0] == []
    assert [chat.decode(ids) for ids in model.allowed[1]] == ["etxe", "txakurra"]
    assert model.calls[0][1] == max(map(len, model.allowed[1])) + 1


def test_questions_of_different_limits_never_share_a_batch(chat):
    model = EchoModel(chat)

    def features(image: bytes) -> np.ndarray:
        return np.full((NUM_IMAGE_TOKENS, 2), len(image), dtype=np.float32)

    limits = ReplyLimits(default=2)
    answerer = VlmAnswerer(model, chat, features, batch_size=4000, limits=limits)
    turns = (Turn(role=Role.USER, content=f"{IMAGE_MARK}\nZer da hau?"),)
    questions = [
        VisualQuestion(turns=turns, image=b"x" * length, max_new_tokens=limit)
        for length, limit in ((3, 4096), (2, 2), (4, 4096), (1, 2))
    ]
    replies = answerer.answer(questions)
    assert [call[:2] for call in model.calls] == [(2, 2), (2, 4096)]
    short, long = (call[-1] for call in model.calls)
    # Long replies get smaller batches, whose keys and values need no more memory.
    assert short == 4000
    assert long == 4000 * (NUM_IMAGE_TOKENS + 2) // (NUM_IMAGE_TOKENS + 4096)
    assert [reply.num_tokens for reply in replies] == [3, 2, 4, 1]
    assert [reply.is_truncated for reply in replies] == [False, True, False, False]


def test_every_run_of_an_evaluation_uses_the_limits_of_the_kinds(items):
    """Also the blind run and the sanity checks, whose replies are compared."""

    asked = set()

    class Recorder(Oracle):
        def answer(self, questions):
            asked.update(
                ("choice" in question.turns[0].content, question.max_new_tokens)
                for question in questions
            )
            texts = ["yes"] * len(questions)
            return [ModelReply(text=text, num_tokens=1, is_truncated=False) for text in texts]

    limits = ReplyLimits(default=5, by_kind={"mc": 9})
    options = EvaluationOptions(limits=limits)
    result = evaluate(Recorder(items), items, options)
    run_canaries(Recorder(items), Recorder(items), items, result, options)
    assert asked == {(False, 5), (True, 9)}


def test_the_blank_image_is_always_the_same():
    assert blank_image() == blank_image()
    assert blank_image().startswith(b"\x89PNG")

"""Token probabilities of the options of closed questions."""

import numpy as np
import pytest
import torch

from core.chat.tokens import IMAGE_MARK
from core.errors import DataError
from core.samples import Role, Turn
from evaluation.answerers.vlm import VlmAnswerer
from evaluation.benchmarks.items import load_benchmark
from evaluation.benchmarks.prompting import load_prompts
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.option_likelihood import possible_replies
from evaluation.runner import EvaluationOptions, evaluate
from tests.support.doubles import NUM_IMAGE_TOKENS, make_chat
from tests.support.evaluation_doubles import Oracle, small_benchmark
from tests.support.models.tiny_vlm import IMAGE, VISION_WIDTH, VOCABULARY, build_model


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return load_benchmark(small_benchmark(tmp_path_factory.mktemp("benchmark")))


def conversations(count):
    """Return conversations of many lengths with replies of one to four tokens, and images."""
    rng = np.random.default_rng(0)
    found, images = [], []
    for number in range(count):
        prompt = rng.integers(10, VOCABULARY, int(rng.integers(2, 20)))
        reply = rng.integers(10, VOCABULARY, 1 + number % 4)
        features = torch.from_numpy(rng.normal(size=(NUM_IMAGE_TOKENS, VISION_WIDTH))).float()
        marks = [IMAGE] * NUM_IMAGE_TOKENS if number % 3 else []
        images.append(features if number % 3 else None)
        ids = np.concatenate([prompt[:1], marks, prompt[1:], reply]).astype(np.int64)
        found.append((ids, len(reply)))
    return found, images


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batched_likelihoods_equal_those_of_single_sequences(batch_size):
    """The plain computation has no padding, no mask and no cache."""
    model = build_model()
    asked, images = conversations(20)
    found = model.log_likelihoods(asked, images, pad_token_id=0, batch_size=batch_size)
    for (ids, num_reply), image, likelihood in zip(asked, images, found, strict=True):
        with torch.no_grad():
            embeds = model.embed(
                torch.from_numpy(ids)[None], None if image is None else image[None]
            )
            logits = model.language_model(inputs_embeds=embeds).logits[0].double()
        log_p = logits.log_softmax(-1)
        places = range(len(ids) - num_reply, len(ids))
        plain = sum(float(log_p[at - 1, ids[at]]) for at in places)
        assert likelihood == pytest.approx(plain, abs=1e-4)
    assert len({round(one, 3) for one in found}) > 15


def test_a_reply_is_tokenised_with_its_prompt():
    chat = make_chat()
    turns = (Turn(role=Role.USER, content=f"{IMAGE_MARK}\nZer da hau?"),)
    prompt = chat.encode_prompt(turns)
    ids, num_reply = chat.encode_reply(turns, "etxe")
    assert ids[: len(prompt)].tolist() == prompt.tolist()
    assert num_reply == len(ids) - len(prompt)
    assert chat.decode(ids[-num_reply:].tolist()) == "etxe"
    with pytest.raises(DataError, match="merges into the last token of its prompt"):
        chat.encode_reply(turns, "")
    with pytest.raises(DataError, match="reserved token"):
        chat.encode_reply(turns, "<|assistant|>")


class RecordingModel:
    def __init__(self):
        self.sizes = []

    def log_likelihoods(self, conversations, images, *, pad_token_id, batch_size):
        self.sizes.append((len(conversations), batch_size))
        return [float(image[0, 0]) - length for (_, length), image in zip(
            conversations, images, strict=True)]  # fmt: skip


def test_the_answerer_rates_in_slices_in_order():
    model = RecordingModel()
    answerer = VlmAnswerer(
        model,
        make_chat(),
        lambda image: np.full((NUM_IMAGE_TOKENS, 2), len(image), dtype=np.float32),
        batch_size=1,
    )
    turns = (Turn(role=Role.USER, content=f"{IMAGE_MARK}\nZer da hau?"),)
    pairs = [
        (VisualQuestion(turns=turns, image=b"x" * (1 + at % 3)), "a" * (1 + at % 2))
        for at in range(20)
    ]
    assert answerer.rate(pairs) == [1 + at % 3 - (1 + at % 2) for at in range(20)]
    assert model.sizes == [(16, 1), (4, 1)]


def test_options_are_letters_only_where_the_prompt_shows_them(items):
    choice = next(item for item in items if item.benchmark == "mc" and item.language == "eu")
    yes_no = next(item for item in items if item.benchmark == "capqa" and item.language == "eu")
    plain = next(item for item in items if item.benchmark == "vqa")
    bare, instructed = (load_prompts(["en", "eu"], style=style) for style in ("bare", "instructed"))
    assert possible_replies(choice, bare) == choice.choices
    assert possible_replies(choice, instructed) == ("A", "B", "C", "D")
    assert possible_replies(yes_no, bare) == ("bai", "ez")
    assert possible_replies(plain, bare) == ()


class Mute(Oracle):
    """Says nothing that can be read, but finds the right option the likeliest."""

    def answer(self, questions):
        return [one.__class__(text="hm", num_tokens=1, is_truncated=False)
                for one in super().answer(questions)]  # fmt: skip

    def rate(self, pairs):
        return [float(self.known.get(question) == reply) for question, reply in pairs]


def test_likelihoods_are_scored_next_to_the_replies(items):
    model = Mute(items)
    result = evaluate(model, items, EvaluationOptions(), rater=model)
    for name in ("mc/eu", "capqa/en"):
        assert result.metrics[f"{name}/accuracy"].value == 0
        likelihood = result.metrics[f"{name}/likelihood"]
        assert likelihood.value == 100
        assert likelihood.ci_low < 100
    assert result.metrics["mc/eu/likelihood"].chance == 25
    columns = result.predictions.to_pydict()
    is_closed = [kind in ("mc", "capqa") for kind in columns["benchmark"]]
    assert [text is not None for text in columns["likeliest_output"]] == is_closed
    without = evaluate(model, items, EvaluationOptions())
    assert not any("likelihood" in name for name in without.metrics)

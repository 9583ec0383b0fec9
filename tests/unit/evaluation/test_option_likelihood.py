"""Token probabilities of the options of closed questions."""

import numpy as np
import pytest
import torch

from core.chat.tokens import IMAGE_MARK
from core.errors import DataError
from core.samples import Role, Turn
from evaluation.answerers.vlm import VlmAnswerer
from evaluation.answers.phrases import plain_text
from evaluation.answers.yes_no import YesNoParser
from evaluation.benchmarks.items import load_benchmark
from evaluation.benchmarks.prompting import load_prompts
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.option_likelihood import beginnings, likeliest_replies, possible_replies
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
def test_a_shared_image_does_not_change_likelihoods(batch_size):
    """The options of a question share the part up to its image, which is computed once."""
    model = build_model()
    rng = np.random.default_rng(1)
    images = [torch.from_numpy(rng.normal(size=(NUM_IMAGE_TOKENS, VISION_WIDTH))).float()
              for _ in range(3)]  # fmt: skip
    marks = [IMAGE] * NUM_IMAGE_TOKENS
    asked, shown = [], []
    for at in range(18):
        reply = rng.integers(10, VOCABULARY, 1 + at % 3)
        # Every sixth prompt ends with its image, so nothing of it can be shared.
        after = rng.integers(10, VOCABULARY, 3 if at % 6 else 0)
        asked.append((np.concatenate([[11], marks, after, reply]).astype(np.int64), len(reply)))
        shown.append(images[at % 3])
    found = model.log_likelihoods(asked, shown, pad_token_id=0, batch_size=batch_size)
    alone = [
        model.log_likelihoods([one], [image.clone()], pad_token_id=0, batch_size=1)[0]
        for one, image in zip(asked, shown, strict=True)
    ]
    assert found == pytest.approx(alone, abs=1e-4)


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
    accepted = possible_replies(yes_no, bare)
    assert {"bai", "Bai", "badago", "ez", "Ezetz"} <= {*accepted}
    # These begin with another one, which is never less likely.
    assert not {"bai horixe", "ez dago dudarik", "bai zera"} & {*accepted}
    assert possible_replies(plain, bare) == ()


@pytest.mark.parametrize("language", ["en", "eu", "es", "ca", "cy"])
def test_rated_words_mean_what_they_stand_for_in_replies(language):
    words = load_prompts([language]).yes_no_words
    parser = YesNoParser(words)
    yes = {plain_text(word) for word in words[language].yes}
    rated = beginnings(words[language])
    assert {parser.parse(word, language) for word in rated} == {True, False}
    for word in rated:
        assert parser.parse(word, language) is (plain_text(word) in yes), word


def test_the_likeliest_of_all_accepted_words_decides(items):
    """A model that says "badago" and never "bai" answers the question all the same."""
    asked = [item for item in items if item.benchmark == "capqa" and item.language == "eu"]
    book = load_prompts(["eu"])

    class Affirmative:
        def rate(self, pairs):
            assert len(set(pairs)) == len(pairs)
            rates = {"Badago": -1.0, "ez": -2.0, "bai": -3.0}
            return [rates.get(reply, -9.0) for _, reply in pairs]

    found = likeliest_replies(Affirmative(), asked, book, image=b"the same")
    assert found == ["Badago"] * len(asked)


class Mute(Oracle):
    """Says nothing that can be read, but finds the right option the likeliest."""

    def answer(self, questions):
        return [one.__class__(text="hm", num_tokens=1, is_truncated=False)
                for one in super().answer(questions)]  # fmt: skip

    def rate(self, pairs):
        return [float(self.known.get(question) == reply) for question, reply in pairs]


@pytest.mark.slow
def test_likelihoods_are_scored_next_to_the_replies(items):
    model = Mute(items)
    result = evaluate(model, items, EvaluationOptions(), rater=model)
    for name in ("mc/eu", "capqa/en"):
        assert result.metrics[f"{name}/accuracy"].value == 0
        likelihood = result.metrics[f"{name}/likelihood"]
        assert likelihood.value == 100
        assert likelihood.ci_low < 100
        # With a blank image, all options are equally likely, and the first one wins.
        assert likelihood.blind == {"mc/eu": 25, "capqa/en": 50}[name]
        assert likelihood.beats_blind < 0.05
    assert result.metrics["mc/eu/likelihood"].chance == 25
    columns = result.predictions.to_pydict()
    is_closed = [kind in ("mc", "capqa") for kind in columns["benchmark"]]
    assert [text is not None for text in columns["likeliest_output"]] == is_closed
    assert [text is not None for text in columns["blind_likeliest_output"]] == is_closed
    seeing = evaluate(model, items, EvaluationOptions(blind=False), rater=model)
    assert seeing.metrics["mc/eu/likelihood"].blind is None
    assert seeing.metrics["mc/eu/likelihood"].value == 100
    without = evaluate(model, items, EvaluationOptions())
    assert not any("likelihood" in name for name in without.metrics)

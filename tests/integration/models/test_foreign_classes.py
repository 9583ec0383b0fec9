"""Ten vision-language classes of transformers get the inputs that their own processors make.

The reference is the processor of each class as `AutoProcessor` loads it, called with rendered text
and images rather than through `apply_chat_template`, and greedy decoding of one prompt at a time.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from core.chat.tokens import IMAGE_MARK
from core.io.images import decode_image
from core.samples import Role, Turn
from evaluation.answerers.hugging_face import HuggingFaceAnswerer
from evaluation.benchmarks.questions import VisualQuestion
from tests.support.models.foreign_classes import BEGIN, BUILDERS, write_checkpoint

_SIZES = ((40, 32), (64, 30), (24, 72), (50, 50))
_TEXTS = ("Zer da hau?", "Zenbat txakur daude argazkian, eta non?", "Non?", "¿Qué es? Ñandú")
_NUM_TOKENS = 6


def encode_image(size: tuple[int, int]) -> bytes:
    pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def ask(text: str, image: bytes) -> VisualQuestion:
    turn = Turn(role=Role.USER, content=f"{IMAGE_MARK}\n{text}")
    return VisualQuestion(turns=(turn,), image=image, max_new_tokens=_NUM_TOKENS)


QUESTIONS = [ask(text, encode_image(size)) for text, size in zip(_TEXTS, _SIZES, strict=True)]


@pytest.fixture(scope="module", params=sorted(BUILDERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def answerer(folder: Path) -> HuggingFaceAnswerer:
    return HuggingFaceAnswerer(str(folder), batch_size=len(QUESTIONS))


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return AutoProcessor.from_pretrained(folder)


def reference_inputs(processor: Any, question: VisualQuestion) -> Any:
    """Return the inputs of the processor, called with text and image as its model card shows."""
    text = question.turns[0].content.removeprefix(f"{IMAGE_MARK}\n")
    parts = [{"type": "image"}, {"type": "text", "text": text}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True
    )
    return processor(
        text=[prompt],
        images=[[decode_image(question.image)]],
        add_special_tokens=not prompt.startswith(BEGIN),
        return_tensors="pt",
    )


def assert_equal(found: Any, expected: Any) -> None:
    assert set(found) == set(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0, msg=name)


def test_inputs_equal_those_of_the_processor(answerer: Any, processor: Any) -> None:
    for question in QUESTIONS:
        assert_equal(answerer.prepare([question]), reference_inputs(processor, question))


def test_inputs_of_a_batch_are_those_of_its_prompts(answerer: Any, processor: Any) -> None:
    batch = answerer.prepare(QUESTIONS)
    for row, question in enumerate(QUESTIONS):
        expected = reference_inputs(processor, question)["input_ids"][0]
        ids, mask = batch["input_ids"][row], batch["attention_mask"][row]
        assert torch.equal(ids[-len(expected) :], expected), "padded on the left"
        assert mask.sum() == len(expected)


@pytest.mark.slow
def test_replies_equal_greedy_decoding_of_single_prompts(
    folder: Path, answerer: Any, processor: Any
) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    expected = []
    for question in QUESTIONS:
        inputs = reference_inputs(processor, question)
        with torch.no_grad():
            ids_BT = model.generate(
                **inputs, max_new_tokens=_NUM_TOKENS, do_sample=False, repetition_penalty=1.0
            )
        new_ids = ids_BT[0, inputs["input_ids"].shape[1] :]
        expected.append(processor.decode(new_ids, skip_special_tokens=True).strip())
    assert len(set(expected)) > 1, "the replies depend on the questions"
    assert [reply.text for reply in answerer.answer(QUESTIONS)] == expected
    alone = [answerer.answer([question])[0].text for question in QUESTIONS]
    assert alone == expected


def test_the_longest_prompt_is_longer_than_the_limit(answerer: Any) -> None:
    one = [ask("?", QUESTIONS[0].image)]
    (reply,) = answerer.answer(one)
    assert answerer.prepare(one)["input_ids"].shape[1] > one[0].max_new_tokens
    assert reply.num_tokens <= _NUM_TOKENS
    assert reply.is_truncated is (reply.num_tokens == _NUM_TOKENS)


def test_questions_without_an_image_are_asked_without_one(answerer: Any, folder: Path) -> None:
    if folder.name.startswith("paligemma"):
        pytest.skip("the processor of PaliGemma requires an image")
    turn = Turn(role=Role.USER, content="Nor zara zu?")
    question = VisualQuestion(turns=(turn,), image=b"", max_new_tokens=_NUM_TOKENS)
    inputs = answerer.prepare([question])
    assert not any("pixel" in name for name in inputs)
    mixed = answerer.answer([QUESTIONS[0], question, QUESTIONS[1]])
    assert mixed[1] == answerer.answer([question])[0]
    assert mixed[0] == answerer.answer([QUESTIONS[0]])[0]

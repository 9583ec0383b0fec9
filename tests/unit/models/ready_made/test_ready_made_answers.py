"""Ready-made models as they are asked: generated ids, likelihoods and guided replies."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from core.chat.ready_made import ReadyMadeChat
from core.samples import Role, Turn
from evaluation.answerers.ready_made import ReadyMadeAnswerer
from evaluation.benchmarks.questions import VisualQuestion
from models.ready_made.loading import ReadyMadeSource, load_chat, load_ready_made
from models.ready_made.model import ReadyMadeVlm
from tests.support.models.foreign_classes import write_checkpoint
from tests.support.models.ready_made import PACKED, encode_image, own_inputs, training_logits

NUM_NEW = 5
OPTIONS = ("bai", "baietz", "ez")
_SIZES = ((40, 32), (64, 30), (24, 72))


@pytest.fixture(scope="module", params=PACKED)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def model(folder: Path) -> ReadyMadeVlm:
    return load_ready_made(ReadyMadeSource(path=str(folder))).eval()


@pytest.fixture(scope="module")
def chat(folder: Path) -> ReadyMadeChat:
    return load_chat(ReadyMadeSource(path=str(folder)))


def make_answerer(model: ReadyMadeVlm, folder: Path, *, batch_size: int) -> ReadyMadeAnswerer:
    chat = load_chat(ReadyMadeSource(path=str(folder)))  # the answerer pads its processor
    return ReadyMadeAnswerer(
        model.stock, chat.processor, source=str(folder), batch_size=batch_size,
        end_token_id=chat.end_token_id,
    )  # fmt: skip


def questions(*, options: Sequence[str] = ()) -> list[VisualQuestion]:
    texts = [f"<image>\nZer da hau? {number}" for number, _ in enumerate(_SIZES)] + ["Nor zara?"]
    images = [*map(encode_image, _SIZES), b""]
    return [
        VisualQuestion(
            turns=(Turn(role=Role.USER, content=text),), image=image, max_new_tokens=NUM_NEW,
            options=tuple(options),
        )
        for text, image in zip(texts, images, strict=True)
    ]  # fmt: skip


@torch.no_grad()
def test_generated_ids_follow_from_whole_forward_passes_of_training(
    folder: Path, chat: ReadyMadeChat, model: ReadyMadeVlm
) -> None:
    """The class generates with its cache; training never has one."""
    stock = AutoModelForImageTextToText.from_pretrained(folder).eval()
    answers = set()
    for question in questions():
        inputs = own_inputs(folder, question)
        ids = inputs["input_ids"][0].tolist()
        generated = stock.generate(
            **inputs, max_new_tokens=NUM_NEW, do_sample=False, repetition_penalty=1.0,
            eos_token_id=-1,
        )[0, len(ids) :].tolist()  # fmt: skip
        for token in generated:
            logits_V = training_logits(model, chat, ids, question)
            assert logits_V[token] >= logits_V.max() - 1e-4
            ids.append(token)
        answers.add(tuple(generated))
    assert len(answers) > 1


def test_likelihoods_are_those_of_the_class(folder: Path, model: ReadyMadeVlm) -> None:
    stock = AutoModelForImageTextToText.from_pretrained(folder).eval()
    replies = ("bai", "txakur bat", "ez", "ni")
    pairs = list(zip(questions(), replies, strict=True))
    found = make_answerer(model, folder, batch_size=3).rate(pairs)
    for (question, reply), rate in zip(pairs, found, strict=True):
        whole = own_inputs(folder, question, reply)
        num_prompt = own_inputs(folder, question)["input_ids"].shape[1]
        labels = whole["input_ids"].clone()
        labels[:, :num_prompt] = -100
        with torch.no_grad():
            mean = stock(**whole, labels=labels, use_cache=False).loss
        expected = -float(mean) * (labels.shape[1] - num_prompt)
        assert rate == pytest.approx(expected, abs=1e-3, rel=1e-5)


def choose(model: ReadyMadeVlm, chat: ReadyMadeChat, ids: list[int], asked: VisualQuestion) -> str:
    """Return the option that greedy decoding among the options reaches, by whole passes."""
    encoded = chat.tokenizer(list(OPTIONS), add_special_tokens=False)["input_ids"]
    options = {
        option: [*one, chat.end_token_id] for option, one in zip(OPTIONS, encoded, strict=True)
    }
    done: list[int] = []
    while True:
        possible = {o: one for o, one in options.items() if one[: len(done)] == done}
        nexts = {one[len(done)] for one in possible.values() if len(one) > len(done)}
        if not nexts:
            return next(iter(possible))
        logits_V = training_logits(model, chat, [*ids, *done], asked)
        done.append(max(nexts, key=lambda token: float(logits_V[token])))


@torch.no_grad()
def test_guided_replies_are_the_options_that_greedy_decoding_reaches(
    folder: Path, chat: ReadyMadeChat, model: ReadyMadeVlm
) -> None:
    expected = [
        choose(model, chat, own_inputs(folder, asked)["input_ids"][0].tolist(), asked)
        for asked in questions()
    ]
    free, guided = questions(), questions(options=OPTIONS)
    for batch_size in (1, 4):
        answerer = make_answerer(model, folder, batch_size=batch_size)
        mixed = answerer.answer([*guided, *free])
        assert [reply.text for reply in mixed[:4]] == expected
        assert not any(reply.is_truncated for reply in mixed[:4])
        assert mixed[4:] == answerer.answer(free), "other questions are not restricted"
    short = [dataclasses.replace(asked, max_new_tokens=1) for asked in guided]
    assert [reply.text for reply in answerer.answer(short)] == expected

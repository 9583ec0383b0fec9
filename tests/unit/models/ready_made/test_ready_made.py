"""Ready-made models: token ids, packed loss and gradients equal those of the class itself."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from core.chat.format import PromptStyle
from core.chat.ready_made import ReadyMadeChat, find_image_size
from core.errors import ConfigError, DataError
from core.samples import Role, StepBatch, Turn, empty_micro_batch
from models.accounting.ready_made_shapes import empty_shaped_ready_made
from models.freezing import FreezePolicy, apply_freeze
from models.language.adapters import TuningConfig, TuningKind, apply_tuning, merge_adapters
from models.language.attention import AttentionKind, use_packed_attention
from models.ready_made.loading import ReadyMadeSource, load_chat, load_ready_made
from models.ready_made.model import ReadyMadeVlm
from tests.support.models.foreign_classes import write_checkpoint
from tests.support.models.ready_made import (
    ANSWERS,
    PACKED,
    SAMPLES,
    collate,
    reference_inputs,
    reference_loss,
)


@pytest.fixture(scope="module", params=PACKED)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def chat(folder: Path) -> ReadyMadeChat:
    return load_chat(ReadyMadeSource(path=str(folder)))


@pytest.fixture
def model(folder: Path) -> ReadyMadeVlm:
    return load_ready_made(ReadyMadeSource(path=str(folder)))


def test_token_ids_are_those_of_apply_chat_template(folder: Path, chat: ReadyMadeChat) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    for sample in SAMPLES:
        encoded = chat.encode(sample, PromptStyle.CHAT)
        expected = reference_inputs(processor, sample)["input_ids"][0].numpy()
        np.testing.assert_array_equal(encoded.input_ids_T, expected)
        answers = chat.tokenizer.decode(encoded.input_ids_T[encoded.loss_mask_T])
        assert answers == f"{ANSWERS[int(sample.key[1:])]}</s>hor</s>"


def test_visual_tokens_follow_from_the_size_alone(chat: ReadyMadeChat) -> None:
    for sample in SAMPLES:
        unread = dataclasses.replace(sample, image=None if sample.image is None else b"")
        found, expected = (chat.encode(s, PromptStyle.CHAT) for s in (unread, sample))
        np.testing.assert_array_equal(found.input_ids_T, expected.input_ids_T)


@pytest.mark.parametrize("kind", [AttentionKind.MASK, AttentionKind.DOCUMENTS])
def test_packed_loss_and_gradients_equal_those_of_the_class(
    folder: Path, chat: ReadyMadeChat, model: ReadyMadeVlm, kind: AttentionKind
) -> None:
    use_packed_attention(model.stock, kind)
    model.attention = kind
    expected, grads = reference_loss(folder, chat)
    apply_freeze(model, FreezePolicy(tower=True, connector=True, language_model=True))
    packed = collate(chat, model.eval(), [SAMPLES[:2], SAMPLES[2:]])
    (moved,) = StepBatch(step=0, micro_batches=(packed,)).__reduce__()[1][0].unpack().micro_batches
    loss = model(moved).loss_sum
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    found = {n.removeprefix("stock."): p.grad for n, p in model.named_parameters()}
    largest = max(float(grad.abs().max()) for grad in grads.values())
    for name, grad in grads.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-5, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize("kind", [AttentionKind.MASK, AttentionKind.DOCUMENTS])
def test_every_part_has_weights_and_a_batch_of_padding_trains_none(
    model: ReadyMadeVlm, kind: AttentionKind
) -> None:
    use_packed_attention(model.stock, kind)
    model.attention = kind
    report = apply_freeze(model, FreezePolicy(tower=True, connector=True, language_model=True))
    assert [line.part for line in report.lines] == ["tower", "connector", "language_model"]
    assert all(line.trainable for line in report.lines)
    assert report.num_trainable == sum(p.numel() for p in model.parameters())
    model(empty_micro_batch()).loss_sum.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    vision = [name for part in ("tower", "connector") for name in model.named_parts()[part]]
    assert all(grads[name] is not None for name in vision), "ranks without images need gradients"
    assert all(not grad.any() for grad in grads.values() if grad is not None)


def test_adapters_train_the_language_model_only_and_merge(
    chat: ReadyMadeChat, model: ReadyMadeVlm
) -> None:
    batch = collate(chat, model.eval(), [SAMPLES])
    before = model(batch).loss_sum
    tuning = TuningConfig(kind=TuningKind.LORA, rank=2, alpha=4.0, dropout=0.0)
    apply_tuning(model.stock, tuning, seed=1, learns=True)
    apply_freeze(model, FreezePolicy(connector=False, language_model=True))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora" in name and "vis" not in name for name in trained)
    torch.testing.assert_close(model(batch).loss_sum, before)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.05)
    tuned = model(batch).loss_sum
    assert abs(float(tuned.detach() - before.detach())) > 1e-3
    merge_adapters(model.stock)
    assert not any("lora" in name for name, _ in model.named_parameters())
    torch.testing.assert_close(model(batch).loss_sum, tuned, rtol=1e-5, atol=1e-5)


def test_running_text_ends_with_the_end_token(chat: ReadyMadeChat) -> None:
    text = dataclasses.replace(
        SAMPLES[4], turns=(Turn(role=Role.TEXT, content="Egun on guztioi."),), image=None
    )
    encoded = chat.encode(text, PromptStyle.CHAT)
    trained = chat.tokenizer.decode(encoded.input_ids_T[encoded.loss_mask_T])
    assert trained in ("Egun on guztioi.</s>", "gun on guztioi.</s>"), "all but the first token"


@pytest.mark.parametrize(
    ("turns", "image", "message"),
    [
        ((Turn(role=Role.USER, content="<image>\nZer?"),), b"x", "no loss tokens"),
        (SAMPLES[0].turns, None, "counts must match"),
        ((*SAMPLES[4].turns[:1], Turn(role=Role.ASSISTANT, content=" ")), None, "empty answer"),
        ((Turn(role=Role.USER, content="</s>"), *SAMPLES[4].turns[1:2]), None, "reserved token"),
        ((*SAMPLES[4].turns, Turn(role=Role.TEXT, content="x")), None, "running text"),
    ],
)
def test_unusable_conversations(
    chat: ReadyMadeChat, turns: tuple[Turn, ...], image: bytes | None, message: str
) -> None:
    image = SAMPLES[0].image if image else None
    size = (40, 32) if image else None
    sample = dataclasses.replace(SAMPLES[0], turns=turns, image=image, image_size=size)
    with pytest.raises(DataError, match=message):
        chat.encode(sample, PromptStyle.CHAT)


def test_a_wrong_size_in_the_index_is_reported() -> None:
    with pytest.raises(DataError, match="rebuild the index"):
        find_image_size(dataclasses.replace(SAMPLES[0], image_size=(41, 32)))


def test_other_styles_and_templates_are_rejected(chat: ReadyMadeChat, folder: Path) -> None:
    with pytest.raises(ConfigError, match="prompt_style=chat"):
        chat.encode(SAMPLES[0], PromptStyle.SHARED_PREFIX)
    processor = AutoProcessor.from_pretrained(folder)
    whole = processor.chat_template
    processor.chat_template = whole.replace("eos_token if m['role'] == 'assistant' else ''", "''")
    with pytest.raises(ConfigError, match="no control token after an answer"):
        ReadyMadeChat(processor)
    processor.chat_template = whole.replace("'[assistant] '", "'[bot] '")
    with pytest.raises(ConfigError, match="renders a beginning"):
        ReadyMadeChat(processor)


def test_a_known_shape_has_the_published_number_of_weights_and_image_tokens() -> None:
    source = ReadyMadeSource(path="Qwen/Qwen3-VL-2B-Instruct", revision="main")
    model = empty_shaped_ready_made(source)
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_127_532_032
    assert model.rules.count_image_tokens((640, 480), min_pixels=None, max_pixels=None) == 20 * 15
    assert model.rules.count_image_tokens((640, 480), min_pixels=None, max_pixels=65536) <= 64
    unknown = dataclasses.replace(source, path="Qwen/Qwen9-VL")
    with pytest.raises(ConfigError, match="unknown model shape 'Qwen9-VL'"):
        empty_shaped_ready_made(unknown)

"""Chat format: token ids and loss masks of all styles, and rejected samples."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from core.chat.format import ChatFormat, PromptStyle, load_tokenizer
from core.chat.templates import EMBEDDED, LLAMA3
from core.errors import ConfigError, DataError
from core.samples import Role, Sample, Turn
from tests.support.doubles import NUM_IMAGE_TOKENS, make_chat, make_tokenizer


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return make_chat()


def sample(*turns: tuple[str, str], image: bytes | None = b"x") -> Sample:
    return Sample(
        key="k",
        source="s",
        language="eu",
        parallel_id="k",
        turns=tuple(Turn(role=Role(role), content=content) for role, content in turns),
        image=image,
    )


def conversation(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    """Build alternating turns of user and assistant."""
    return [turn for pair in pairs for turn in zip(("user", "assistant"), pair, strict=True)]


def split(chat: ChatFormat, ids: np.ndarray, mask: np.ndarray) -> tuple[str, str]:
    """Decode the context and the loss tokens."""
    decode = chat.tokenizer.decode
    return decode(ids[~mask].tolist()), decode(ids[mask].tolist())


def encode(chat: ChatFormat, example: Sample, style: PromptStyle) -> tuple[np.ndarray, np.ndarray]:
    """Return the token ids and the loss mask of a sample."""
    encoded = chat.encode(example, style)
    return encoded.input_ids_T, encoded.loss_mask_T


def test_chat_style_puts_loss_on_answers_only(chat: ChatFormat) -> None:
    turns = [("system", "S"), ("user", "<image>\nZer da?"), ("assistant", "Zuhaitza ñ")]
    ids, mask = encode(chat, sample(*turns), PromptStyle.CHAT)
    context, target = split(chat, ids, mask)
    images = EMBEDDED.image_token * NUM_IMAGE_TOKENS
    assert context == f"<|begin_of_text|><|system|>S<|user|>{images}\nZer da?<|assistant|>"
    assert target == "Zuhaitza ñ<|eot_id|>"
    assert int((ids == chat.image_token_id).sum()) == NUM_IMAGE_TOKENS
    assert ids.dtype == np.int64
    assert mask.dtype == bool


def test_every_assistant_turn_has_loss(chat: ChatFormat) -> None:
    turns = [("user", "<image>"), ("assistant", "A"), ("user", "q"), ("assistant", "B")]
    ids, mask = encode(chat, sample(*turns), PromptStyle.CHAT)
    assert split(chat, ids, mask)[1] == "A<|eot_id|>B<|eot_id|>"


def test_plain_style_omits_the_user(chat: ChatFormat) -> None:
    turns = [("user", "<image>\nDescribe."), ("assistant", "etxe")]
    ids, mask = encode(chat, sample(*turns), PromptStyle.PLAIN)
    context, target = split(chat, ids, mask)
    assert context == "<|begin_of_text|>" + EMBEDDED.image_token * NUM_IMAGE_TOKENS
    assert target == "etxe<|eot_id|>"


@pytest.mark.parametrize("style", list(PromptStyle))
def test_running_text_has_loss_everywhere(chat: ChatFormat, style: PromptStyle) -> None:
    ids, mask = encode(chat, sample(("text", "Kaixo mundua"), image=None), style)
    assert split(chat, ids, mask) == ("<|begin_of_text|>", "Kaixo mundua<|eot_id|>")


def test_prompt_is_the_prefix_of_the_training_sequence(chat: ChatFormat) -> None:
    turns = [("user", "<image>\nZer da?"), ("assistant", "Etxe")]
    ids, mask = encode(chat, sample(*turns), PromptStyle.CHAT)
    prompt = chat.encode_prompt([Turn(role=Role.USER, content="<image>\nZer da?")])
    assert np.array_equal(prompt, ids[~mask])


def test_decode_stops_at_the_end_mark(chat: ChatFormat) -> None:
    ids = chat.tokenizer.encode("bai<|eot_id|>eta gero", add_special_tokens=False)
    assert chat.decode(ids) == "bai"
    assert chat.decode(ids[:2]) == "ba"


@pytest.mark.parametrize(
    ("turns", "image", "style", "message"),
    [
        ([("user", "x"), ("assistant", " ")], None, PromptStyle.CHAT, "empty answer"),
        ([("user", "<image>")], b"x", PromptStyle.PLAIN, "empty caption"),
        ([("user", "x")], None, PromptStyle.CHAT, "no loss tokens"),
        (
            [("user", "x"), ("assistant", "y")],
            b"x",
            PromptStyle.CHAT,
            "text has 0 '<image>', but the sample has 1",
        ),
        ([("user", "<image>"), ("assistant", "y")], None, PromptStyle.CHAT, "1 '<image>'.*0 image"),
        ([("user", "<|assistant|>"), ("assistant", "y")], None, PromptStyle.CHAT, "reserved token"),
    ],
)
def test_invalid_samples_are_rejected(
    chat: ChatFormat,
    turns: list[tuple[str, str]],
    image: bytes | None,
    style: PromptStyle,
    message: str,
) -> None:
    with pytest.raises(DataError, match=message):
        chat.encode(sample(*turns, image=image), style)


def test_questions_are_branches_after_the_shared_image(chat: ChatFormat) -> None:
    pairs = [("<image>\nZer da?", "Etxe"), ("Zenbat?", "bi"), ("Txakurra al da?", "ez")]
    system = ("system", "S")
    encoded = chat.encode(sample(system, *conversation(*pairs)), PromptStyle.SHARED_PREFIX)
    ids, mask, branches = encoded.input_ids_T, encoded.loss_mask_T, encoded.branch_ids_T
    prefix = f"<|begin_of_text|><|system|>S<|user|>{EMBEDDED.image_token * NUM_IMAGE_TOKENS}"
    assert chat.tokenizer.decode(ids[branches == 0].tolist()) == prefix
    for number, (question, answer) in enumerate(pairs, start=1):
        alone = question if "<image>" in question else f"<image>\n{question}"
        expected = chat.encode(sample(system, *conversation((alone, answer))), PromptStyle.CHAT)
        seen = (branches == 0) | (branches == number)
        assert np.array_equal(ids[seen], expected.input_ids_T)
        assert np.array_equal(mask[seen], expected.loss_mask_T)
    assert branches.max() == len(pairs)


def test_samples_without_image_share_nothing(chat: ChatFormat) -> None:
    one = sample(*conversation(("q", "a"), ("r", "b")), image=None)
    shared, whole = (chat.encode(one, s) for s in (PromptStyle.SHARED_PREFIX, PromptStyle.CHAT))
    for array in dataclasses.asdict(shared):
        assert np.array_equal(getattr(shared, array), getattr(whole, array))


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([("user", "<image>"), ("user", "x"), ("assistant", "y")], "alternating turns"),
        ([("user", "<image>")], "alternating turns"),
        ([("user", "Zer da? <image>"), ("assistant", "y")], "first question must begin with"),
        (conversation(("<image>", "y"), ("<image>", "y")), "first question must begin with"),
        (conversation(("<image>\nx", "y"), ("z", " ")), "empty answer"),
    ],
)
def test_conversations_without_branches_are_rejected(
    chat: ChatFormat, turns: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        chat.encode(sample(*turns), PromptStyle.SHARED_PREFIX)


def test_a_template_must_match_the_tokenizer() -> None:
    with pytest.raises(ConfigError, match="as one token"):
        ChatFormat(make_tokenizer(), LLAMA3, num_image_tokens=1)


def test_a_missing_tokenizer_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tokenizer at"):
        load_tokenizer(tmp_path / "nothing")


def test_a_saved_tokenizer_loads_unchanged(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    loaded = ChatFormat(load_tokenizer(tmp_path), EMBEDDED, num_image_tokens=NUM_IMAGE_TOKENS)
    one = sample(("user", "<image>"), ("assistant", "etxe"))
    expected = encode(make_chat(), one, PromptStyle.CHAT)
    assert all(map(np.array_equal, encode(loaded, one, PromptStyle.CHAT), expected))

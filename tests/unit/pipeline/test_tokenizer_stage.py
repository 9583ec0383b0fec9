"""The tokenizer of the embedded models: every text, words with their marks, exact loss masks."""

import pytest
from transformers import PreTrainedTokenizerFast

from benchmarks.language_model_quality.fertility import fertility
from core.chat.format import ChatFormat, PromptStyle
from core.chat.templates import EMBEDDED
from core.samples import Role, Sample, Turn
from pipeline.stages.tokenizer import train_tokenizer

HINDI = "हिन्दी में किताब"
GEORGIAN = "წითელი ვაშლი"
TEXTS = ["the red apple", "sagar gorria", "What is this?\nZer da hau?", HINDI, GEORGIAN]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS * 20, 700, EMBEDDED)


def tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize(
    "text", [*TEXTS, "ünseen 🍎 漢字 ꯃꯤꯇꯩ", "  two  spaces ", "a\n\nb\t", "1234,5"]
)
def test_every_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokens(tokenizer, text)) == f" {text}"


def test_a_word_is_the_same_at_the_start_of_a_turn_and_inside_it(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    inside = tokens(tokenizer, "the red apple")
    assert tokens(tokenizer, "red apple") == inside[1:]
    assert tokens(tokenizer, "<|user|>red apple")[1:] == inside[1:]


def test_marks_belong_to_their_word(tokenizer: PreTrainedTokenizerFast) -> None:
    """GPT-2's rule makes at least one token of every vowel sign."""
    assert len(tokens(tokenizer, HINDI)) == 3
    assert len(tokens(tokenizer, GEORGIAN)) == 2


def test_the_loss_covers_exactly_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    """The space before a turn must not move the boundary between question and answer."""
    chat = ChatFormat(tokenizer, EMBEDDED, num_image_tokens=1)
    turns = (
        Turn(role=Role.USER, content=f"{GEORGIAN}\nZer da hau?"),
        Turn(role=Role.ASSISTANT, content="sagar gorria"),
    )
    sample = Sample(key="0", source="s", language="eu", parallel_id="0", turns=turns, image=None)
    encoded = chat.encode(sample, PromptStyle.CHAT)
    counted = encoded.input_ids_T[encoded.loss_mask_T].tolist()
    assert counted == [*tokens(tokenizer, "sagar gorria"), chat.end_token_id]
    prompt = encoded.input_ids_T[~encoded.loss_mask_T]
    assert prompt.tolist() == chat.encode_prompt(turns[:1]).tolist()


def test_fertility_counts_tokens_per_word_character_and_byte(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    known = fertility(tokenizer, [GEORGIAN])
    assert known.per_word == 1
    assert known.per_character == 2 / 12
    assert known.per_byte == 2 / 34
    assert fertility(tokenizer, ["ꯃꯤꯇꯩ"]).per_byte == pytest.approx(1, abs=0.1)

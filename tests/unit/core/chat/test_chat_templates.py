"""Golden texts of the chat templates of real backbones, with their loss tokens."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from core.chat.format import ChatFormat, PromptStyle
from core.chat.templates import LLAMA3, SMOLLM2, ChatTemplate
from core.samples import Role, Sample, Turn

LLAMA_SPECIAL = (
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    LLAMA3.pad_token, LLAMA3.image_token,
)  # fmt: skip
SMOLLM_SPECIAL = ("<|im_start|>", "<|im_end|>", SMOLLM2.pad_token, SMOLLM2.image_token)
GOLDEN_LLAMA = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nLabur erantzun.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{image}{image}\nZer da hau?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[Txakurra da!<|eot_id|>]"
    "<|start_header_id|>user<|end_header_id|>\n\nEta hau?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[Ez dakit.<|eot_id|>]"
)
"""Meta's format (llama-models, prompt_format.md of Llama 3.1) without the stock template's block
about knowledge cutoff and date; loss tokens are in brackets."""
GOLDEN_SMOLLM = (
    "<|im_start|>system\nLabur erantzun.<|im_end|>\n"
    "<|im_start|>user\n{image}{image}\nZer da hau?<|im_end|>\n"
    "<|im_start|>assistant\n[Txakurra da!<|im_end|>]\n"
    "<|im_start|>user\nEta hau?<|im_end|>\n"
    "<|im_start|>assistant\n[Ez dakit.<|im_end|>]"
)


def tokenizer_of(special: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Build a byte-level tokenizer with the real marks; "!" has id 0, as in Llama-3."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=list(special)
    )


def sample() -> Sample:
    turns = (
        Turn(role=Role.SYSTEM, content="Labur erantzun."),
        Turn(role=Role.USER, content="<image>\nZer da hau?"),
        Turn(role=Role.ASSISTANT, content="Txakurra da!"),
        Turn(role=Role.USER, content="Eta hau?"),
        Turn(role=Role.ASSISTANT, content="Ez dakit."),
    )
    return Sample(key="k", source="s", language="eu", parallel_id="k", image=b"image", turns=turns)


def rendered(template: ChatTemplate, special: tuple[str, ...]) -> str:
    """Render the sequence as text, with loss tokens in brackets."""
    chat = ChatFormat(tokenizer_of(special), template, num_image_tokens=2)
    encoded = chat.encode(sample(), PromptStyle.CHAT)
    text, inside = "", False
    for index, is_target in zip(
        encoded.input_ids_T.tolist(), encoded.loss_mask_T.tolist(), strict=True
    ):
        if is_target != inside:
            text += "[" if is_target else "]"
            inside = is_target
        text += chat.tokenizer.decode([index])
    return text + ("]" if inside else "")


def test_llama_3_1() -> None:
    expected = GOLDEN_LLAMA.format(image=LLAMA3.image_token)
    assert rendered(LLAMA3, LLAMA_SPECIAL) == expected
    assert expected.count("<|begin_of_text|>") == 1, "the stock template repeats its head per call"


def test_smollm2() -> None:
    assert rendered(SMOLLM2, SMOLLM_SPECIAL) == GOLDEN_SMOLLM.format(image=SMOLLM2.image_token)


def test_padding_has_its_own_token_and_id_0_is_text() -> None:
    """A mask `ids != 0` would hide "!"."""
    chat = ChatFormat(tokenizer_of(LLAMA_SPECIAL), LLAMA3, num_image_tokens=2)
    assert chat.tokenizer.decode([0]) == "!"
    ids = chat.encode(sample(), PromptStyle.CHAT).input_ids_T.tolist()
    assert 0 in ids
    assert chat.pad_token_id not in ids
    assert len({chat.pad_token_id, chat.end_token_id, chat.image_token_id, 0}) == 4

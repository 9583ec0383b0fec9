"""Chat templates: the markers around the turns of a conversation."""

import dataclasses

from core.chat.tokens import IMAGE_TOKEN


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChatTemplate:
    """Markers around turns; the assistant text and its end token are loss tokens."""

    name: str
    bos: str
    user_prefix: str
    user_suffix: str
    assistant_prefix: str
    assistant_suffix: str
    system_prefix: str
    system_suffix: str
    pad_token: str
    image_token: str = IMAGE_TOKEN
    separator: str = ""
    """Text between an answer and the next turn, without loss."""
    added_tokens: tuple[str, ...] = ()
    """Special tokens added to a tokenizer that lacks them; the embeddings are then resized."""


EMBEDDED = ChatTemplate(
    name="embedded",
    bos="<|begin_of_text|>",
    user_prefix="<|user|>",
    user_suffix="",
    assistant_prefix="<|assistant|>",
    assistant_suffix="<|eot_id|>",
    system_prefix="<|system|>",
    system_suffix="",
    pad_token="<|finetune_right_pad_id|>",
)
"""One marker per turn: Llama-3's headers would be longer than the turns of the embedded data."""

_LLAMA3_HEADER = "<|start_header_id|>{role}<|end_header_id|>\n\n"

LLAMA3 = ChatTemplate(
    name="llama-3.1",
    bos="<|begin_of_text|>",
    user_prefix=_LLAMA3_HEADER.format(role="user"),
    user_suffix="<|eot_id|>",
    assistant_prefix=_LLAMA3_HEADER.format(role="assistant"),
    assistant_suffix="<|eot_id|>",
    system_prefix=_LLAMA3_HEADER.format(role="system"),
    system_suffix="<|eot_id|>",
    pad_token="<|finetune_right_pad_id|>",
    image_token="<|reserved_special_token_0|>",
)
"""Llama-3.1 headers without the date block that the stock template repeats in every call
(LLaVA-NeXT issue 267). The image placeholder is a reserved token: embeddings are not resized."""

_CHATML_HEADER = "<|im_start|>{role}\n"

SMOLLM2 = ChatTemplate(
    name="smollm2",
    bos="",
    user_prefix=_CHATML_HEADER.format(role="user"),
    user_suffix="<|im_end|>\n",
    assistant_prefix=_CHATML_HEADER.format(role="assistant"),
    assistant_suffix="<|im_end|>",
    system_prefix=_CHATML_HEADER.format(role="system"),
    system_suffix="<|im_end|>\n",
    pad_token="<gh_stars>",
    image_token="<empty_output>",
    separator="\n",
)
"""ChatML of SmolLM2-Instruct without the English system turn that its stock template adds. Padding
and placeholder reuse special tokens of its code data, because its own pad token is also its end
token and id 0 ends documents: a mask computed from ids would hide real tokens."""

CHATML = dataclasses.replace(
    SMOLLM2,
    name="chatml",
    pad_token="<|fim_pad|>",
    image_token="<|image_pad|>",
    added_tokens=("<|fim_pad|>", "<|image_pad|>"),
)
"""ChatML for other tokenizers with `<|im_start|>` and `<|im_end|>` (Qwen's has all four tokens)."""

TEMPLATES = {template.name: template for template in (EMBEDDED, LLAMA3, SMOLLM2, CHATML)}

"""Tiny random LLaVA checkpoints of other authors, built with transformers alone."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

VICUNA_TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% for c in m['content'] %}"
    "{{ '<image>\n' if c['type'] == 'image' else c['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""Template of LLaVA-1.5: it has no beginning-of-sequence token, which the tokenizer adds."""
_BEGIN, _END, _IMAGE, _PADDING = "<s>", "</s>", "<image>", "<pad>"


def write_llava(
    folder: Path,
    *,
    template: str = VICUNA_TEMPLATE,
    has_bos: bool = True,
    has_padding: bool = True,
    generation: dict[str, Any] | None = None,
) -> LlavaForConditionalGeneration:
    """Write a checkpoint with byte-level tokens and return its model."""
    tokenizer = _tokenizer(has_bos=has_bos, has_padding=has_padding)
    torch.manual_seed(0)
    text = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        vocab_size=len(tokenizer), initializer_range=0.3, bos_token_id=0, eos_token_id=1,
        pad_token_id=3, max_position_embeddings=512,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=8, initializer_factor=5.0,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision, text_config=text, image_token_index=2, image_seq_length=16,
            vision_feature_layer=-2, vision_feature_select_strategy="default",
        )
    ).eval()  # fmt: skip
    for name, value in {"eos_token_id": 1, "pad_token_id": 3, **(generation or {})}.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=8, chat_template=template,
        vision_feature_select_strategy="default", image_token=_IMAGE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return model


def _tokenizer(*, has_bos: bool, has_padding: bool) -> PreTrainedTokenizerFast:
    special = [_BEGIN, _END, _IMAGE, _PADDING]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"eos_token": _END, "additional_special_tokens": [_IMAGE]}
    if has_bos:
        names["bos_token"] = _BEGIN
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{_BEGIN} $A", pair=f"{_BEGIN} $A $B", special_tokens=[(_BEGIN, 0)]
        )
    if has_padding:
        names["pad_token"] = _PADDING
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)

"""Tiny random checkpoints of the vision-language classes of transformers, with their processors.

Every builder writes a folder as the authors of such a model publish it: configuration, weights,
generation settings, tokenizer, image processor and chat template.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

BEGIN, END, PADDING = "<s>", "</s>", "<pad>"
_PINPOINTS = [[32, 64], [64, 32], [64, 64]]
_TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3, "bos_token_id": 0,
    "eos_token_id": 1, "pad_token_id": 2, "max_position_embeddings": 4096,
}  # fmt: skip
_VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "patch_size": 8, "initializer_range": 0.3,
}  # fmt: skip
_SQUARE = {"height": 32, "width": 32}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}


def chat_template(image: str, *, begin: str = "") -> str:
    """Return a template with a mark for the image, as most authors write it.

    Answers end with a control token and a line break, as in ChatML and Gemma's format.
    """
    return (
        f"{begin}{{% for m in messages %}}{{{{ '[' + m['role'] + '] ' }}}}"
        "{% for c in m['content'] %}"
        f"{{% if c['type'] == 'image' %}}{{{{ '{image}\\n' }}}}{{% else %}}{{{{ c['text'] }}}}"
        "{% endif %}{% endfor %}{{ eos_token if m['role'] == 'assistant' else '' }}{{ '\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
    )


def make_tokenizer(
    *special: str, adds_begin: bool = True, names: dict[str, str] | None = None
) -> hf.PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with special tokens and names for some of them."""
    marks = [BEGIN, END, PADDING, *special]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*marks, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if adds_begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[(BEGIN, 0)]
        )
    tokenizer.add_special_tokens(marks)
    more = {"extra_special_tokens": names} if names else {}
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PADDING, **more
    )  # fmt: skip


def _save(folder: Path, model: Any, processor: Any) -> None:
    # Most published checkpoints sample; an evaluation must not.
    for name, value in {"do_sample": True, "temperature": 0.7, "repetition_penalty": 1.3}.items():
        setattr(model.generation_config, name, value)
    model.generation_config.eos_token_id = [1]
    model.generation_config.pad_token_id = 2
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _clip() -> hf.CLIPVisionConfig:
    return hf.CLIPVisionConfig(**_VISION, image_size=32, initializer_factor=5.0)


def _siglip(**more: Any) -> hf.SiglipVisionConfig:
    return hf.SiglipVisionConfig(**_VISION, image_size=32, vision_use_head=False, **more)


def llava(folder: Path) -> None:
    """Write a LLaVA-1.5: the tokenizer adds BOS, not the template."""
    tokenizer = make_tokenizer("<image>")
    config = hf.LlavaConfig(
        vision_config=_clip(), text_config=hf.LlamaConfig(**_TEXT, vocab_size=len(tokenizer)),
        image_token_index=3, image_seq_length=16,
    )  # fmt: skip
    processor = hf.LlavaProcessor(
        image_processor=hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=_SQUARE),
        tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=chat_template("<image>"),
    )  # fmt: skip
    _save(folder, hf.LlavaForConditionalGeneration(config), processor)


def llava_next(folder: Path) -> None:
    """Write a LLaVA-NeXT: the number of image tokens depends on the size of the image."""
    tokenizer = make_tokenizer("<image>")
    config = hf.LlavaNextConfig(
        vision_config=_clip(), text_config=hf.LlamaConfig(**_TEXT, vocab_size=len(tokenizer)),
        image_token_index=3, image_grid_pinpoints=_PINPOINTS,
    )  # fmt: skip
    processor = hf.LlavaNextProcessor(
        image_processor=hf.LlavaNextImageProcessor(
            size={"shortest_edge": 32}, crop_size=_SQUARE, image_grid_pinpoints=_PINPOINTS
        ),
        tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=chat_template("<image>"),
    )  # fmt: skip
    _save(folder, hf.LlavaNextForConditionalGeneration(config), processor)


def llava_onevision(folder: Path) -> None:
    """Write a LLaVA-OneVision: Qwen2 without BOS, and the full SigLIP features."""
    tokenizer = make_tokenizer("<image>", "<video>", adds_begin=False)
    config = hf.LlavaOnevisionConfig(
        vision_config=_siglip(), text_config=_qwen2(tokenizer), image_token_index=3,
        video_token_index=4, image_grid_pinpoints=_PINPOINTS,
    )  # fmt: skip
    processor = hf.LlavaOnevisionProcessor(
        image_processor=hf.LlavaOnevisionImageProcessor(
            size=_SQUARE, image_grid_pinpoints=_PINPOINTS
        ),
        video_processor=hf.LlavaOnevisionVideoProcessor(size=_SQUARE), tokenizer=tokenizer,
        num_image_tokens=16, vision_feature_select_strategy="full",
        chat_template=chat_template("<image>"),
    )  # fmt: skip
    _save(folder, hf.LlavaOnevisionForConditionalGeneration(config), processor)


def idefics3(folder: Path) -> None:
    """Write an Idefics3: images are split into tiles of a grid, named in the prompt."""
    _idefics3(folder, "Idefics3")


def smolvlm(folder: Path) -> None:
    """Write a SmolVLM: as Idefics3, with a processor that also takes videos."""
    pytest.importorskip("num2words", reason="the processor of SmolVLM needs it")
    more = {
        "video_processor": hf.SmolVLMVideoProcessor(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
        )
    }
    _idefics3(folder, "SmolVLM", **more)


def _idefics3(folder: Path, name: str, **more: Any) -> None:
    names = ("<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<video>")
    grid = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = make_tokenizer("<image>", *names, *grid)
    config = getattr(hf, f"{name}Config")(
        vision_config={**_VISION, "image_size": 32},
        text_config=hf.LlamaConfig(**_TEXT, vocab_size=len(tokenizer)),
        image_token_id=3, scale_factor=2, pad_token_id=2,
    )  # fmt: skip
    processor = getattr(hf, f"{name}Processor")(
        image_processor=getattr(hf, f"{name}ImageProcessor")(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
        ),
        tokenizer=tokenizer, image_seq_len=4,
        chat_template=chat_template("<image>", begin="{{ bos_token }}"), **more,
    )  # fmt: skip
    _save(folder, getattr(hf, f"{name}ForConditionalGeneration")(config), processor)


def qwen2_vl(folder: Path) -> None:
    """Write a Qwen2-VL: positions in three dimensions, as many tokens as the image is large."""
    _qwen_vl(folder, "Qwen2VL", {"embed_dim": 32, "mlp_ratio": 2})


def qwen2_5_vl(folder: Path) -> None:
    """Write a Qwen2.5-VL: its tower attends within windows."""
    vision = {"out_hidden_size": 32, "intermediate_size": 48, "fullatt_block_indexes": [1],
              "window_size": 16}  # fmt: skip
    _qwen_vl(folder, "Qwen2_5_VL", vision)


def qwen3_vl(folder: Path) -> None:
    """Write a Qwen3-VL: features of several layers of its tower are added in the decoder."""
    vision = {"out_hidden_size": 32, "intermediate_size": 48, "deepstack_visual_indexes": [0, 1],
              "num_position_embeddings": 64}  # fmt: skip
    _qwen_vl(folder, "Qwen3VL", vision)


def _qwen_vl(folder: Path, name: str, vision: dict[str, Any]) -> None:
    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = make_tokenizer(*marks, adds_begin=False)
    config = getattr(hf, f"{name}Config")(
        text_config={**_TEXT, "vocab_size": len(tokenizer), "rope_parameters": _ROPE},
        vision_config={"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 4,
                       "spatial_merge_size": 2, "temporal_patch_size": 2, **vision},
        vision_start_token_id=3, vision_end_token_id=4, image_token_id=5, video_token_id=6,
    )  # fmt: skip
    video_class = getattr(hf, f"{name}VideoProcessor", hf.Qwen2VLVideoProcessor)
    processor = getattr(hf, f"{name}Processor")(
        image_processor=hf.Qwen2VLImageProcessor(
            patch_size=4, merge_size=2, size={"shortest_edge": 256, "longest_edge": 1024}
        ),
        video_processor=video_class(patch_size=4, merge_size=2), tokenizer=tokenizer,
        chat_template=chat_template("<|vision_start|><|image_pad|><|vision_end|>"),
    )  # fmt: skip
    _save(folder, getattr(hf, f"{name}ForConditionalGeneration")(config), processor)


def internvl(folder: Path) -> None:
    """Write an InternVL: images are cropped to patches, pixels of a batch are concatenated."""
    names = {
        "start_image_token": "<img>", "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>",
    }  # fmt: skip
    tokenizer = make_tokenizer(*names.values(), adds_begin=False, names=names)
    config = hf.InternVLConfig(
        vision_config={**_VISION, "image_size": [32, 32], "patch_size": [8, 8]},
        text_config=_qwen2(tokenizer), image_token_id=5, image_seq_length=4,
    )  # fmt: skip
    processor = hf.InternVLProcessor(
        image_processor=hf.GotOcr2ImageProcessor(size=_SQUARE, min_patches=1, max_patches=3),
        video_processor=hf.InternVLVideoProcessor(size=_SQUARE), tokenizer=tokenizer,
        image_seq_length=4, chat_template=chat_template("<IMG_CONTEXT>"),
    )  # fmt: skip
    _save(folder, hf.InternVLForConditionalGeneration(config), processor)


def gemma3(folder: Path) -> None:
    """Write a Gemma 3: BOS in the template, bidirectional attention within the image."""
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
             "image_token": "<image_soft_token>"}  # fmt: skip
    tokenizer = make_tokenizer(*names.values(), names=names)
    text = {**_TEXT, "vocab_size": len(tokenizer), "sliding_window": 512,
            "query_pre_attn_scalar": 8, "tie_word_embeddings": False}  # fmt: skip
    config = hf.Gemma3Config(
        text_config=hf.Gemma3TextConfig(**text), vision_config=_siglip(), mm_tokens_per_image=4,
        boi_token_index=3, eoi_token_index=4, image_token_index=5, tie_word_embeddings=False,
    )  # fmt: skip
    processor = hf.Gemma3Processor(
        image_processor=hf.Gemma3ImageProcessor(size=_SQUARE), tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=chat_template("<start_of_image>", begin="{{ bos_token }}"),
    )  # fmt: skip
    _save(folder, hf.Gemma3ForConditionalGeneration(config), processor)


def mistral3(folder: Path) -> None:
    """Write a Mistral 3 with a Pixtral tower: images keep their shape, rows end with a break."""
    tokenizer = make_tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    vision = {**_VISION, "image_size": 64, "head_dim": 16,
              "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}  # fmt: skip
    config = hf.Mistral3Config(
        vision_config=hf.PixtralVisionConfig(**vision), image_token_index=3, spatial_merge_size=2,
        text_config=hf.MistralConfig(**_TEXT, vocab_size=len(tokenizer)),
    )  # fmt: skip
    processor = hf.PixtralProcessor(
        image_processor=hf.PixtralImageProcessor(
            size={"longest_edge": 64}, patch_size={"height": 8, "width": 8}
        ),
        tokenizer=tokenizer, patch_size=8, spatial_merge_size=2,
        chat_template=chat_template("[IMG]", begin="{{ bos_token }}"),
    )  # fmt: skip
    _save(folder, hf.Mistral3ForConditionalGeneration(config), processor)


def paligemma(folder: Path) -> None:
    """Write a PaliGemma: its processor moves BOS behind the image and ends the prompt itself."""
    tokenizer = make_tokenizer("<image>", adds_begin=False)
    images = hf.SiglipImageProcessor(size=_SQUARE)
    images.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(
        image_processor=images, tokenizer=tokenizer,
        chat_template="{% for m in messages %}{% for c in m['content'] %}"
        "{{ '<image>' if c['type'] == 'image' else c['text'] }}{% endfor %}{% endfor %}",
    )  # fmt: skip
    config = hf.PaliGemmaConfig(
        vision_config=_siglip(projection_dim=32), projection_dim=32, hidden_size=32,
        text_config=hf.GemmaConfig(
            **_TEXT, vocab_size=len(tokenizer), tie_word_embeddings=False
        ),
        image_token_index=3, vocab_size=len(tokenizer), tie_word_embeddings=False,
    )  # fmt: skip
    _save(folder, hf.PaliGemmaForConditionalGeneration(config), processor)


def _qwen2(tokenizer: hf.PreTrainedTokenizerFast) -> hf.Qwen2Config:
    text = {name: value for name, value in _TEXT.items() if name != "head_dim"}
    return hf.Qwen2Config(**text, vocab_size=len(tokenizer))


_BUILDERS: tuple[Callable[[Path], None], ...] = (
    llava, llava_next, llava_onevision, idefics3, smolvlm, qwen2_vl, qwen2_5_vl, qwen3_vl, internvl,
    gemma3, mistral3, paligemma,
)  # fmt: skip
BUILDERS = {builder.__name__: builder for builder in _BUILDERS}
"""Name of a class -> its builder."""


def write_checkpoint(name: str, folder: Path) -> Path:
    """Write the checkpoint of a class, with the same weights each time; returns the folder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BUILDERS[name](folder)
    return folder

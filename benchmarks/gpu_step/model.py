"""Models of the GPU step benchmark: the paper's shapes or tiny ones, with random weights."""

import dataclasses
from typing import Any

import open_clip
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from core.chat.format import ChatFormat
from core.chat.templates import LLAMA3
from models.connector import ConnectorConfig, build_connector
from models.towers.image_transform import ImageTransform
from models.towers.libraries.open_clip import OpenClipTower
from models.towers.vision_tower import VisionTowerConfig
from models.vlm import VisionLanguageModel

NUM_WORDS = 400
"""Words of the synthetic language; each is one token, so token lengths are exact."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Sizes of a model and its batches."""

    language_model: dict[str, Any]
    """Arguments of LlamaConfig."""
    vision: dict[str, Any]
    """open_clip vision configuration (`vision_cfg`)."""
    image_sides: tuple[int, int]
    """Width and height of the stored images."""
    micro_batch_tokens: int
    row_tokens: int
    samples_per_step: int
    """Number of images in one optimizer step."""
    texts_per_step: int
    """Number of text-only conversations in one step of stage 2."""
    loss_chunk: int
    hf_batches: tuple[int, ...]
    """Batch sizes that the baseline tries; the first one that fits is used."""


PAPER = Shape(
    language_model={  # Llama-3.1-8B's config.json
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    vision={"image_size": 336, "layers": 24, "width": 1024, "patch_size": 14},
    image_sides=(500, 375),
    micro_batch_tokens=8192,
    row_tokens=4096,
    samples_per_step=64,
    texts_per_step=8,
    loss_chunk=1024,
    hf_batches=(16, 8, 4, 2),
)
TINY = Shape(
    language_model={
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    },
    vision={"image_size": 56, "layers": 3, "width": 128, "patch_size": 14},
    image_sides=(80, 60),
    micro_batch_tokens=2048,
    row_tokens=1024,
    samples_per_step=8,
    texts_per_step=2,
    loss_chunk=64,
    hf_batches=(4,),
)
SHAPES = {"8b": PAPER, "tiny": TINY}


def make_chat(shape: Shape) -> ChatFormat:
    """Return Llama-3.1's chat format over a tokenizer with one token per word."""
    words = [f"w{i}" for i in range(NUM_WORDS)]
    special = [LLAMA3.bos, "<|start_header_id|>", "<|end_header_id|>", LLAMA3.assistant_suffix]
    special += [LLAMA3.pad_token, LLAMA3.image_token, "<unk>"]
    pieces = [*special, "\n\n", "\n", "user", "assistant", *words, *(f" {word}" for word in words)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n\n|\n| ?[^\s]+"), "isolated")
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=LLAMA3.bos,
        eos_token=LLAMA3.assistant_suffix,
        pad_token=LLAMA3.pad_token,
        unk_token="<unk>",
        additional_special_tokens=special,
    )
    return ChatFormat(fast, LLAMA3, num_image_tokens=num_patches(shape))


def num_patches(shape: Shape) -> int:
    """Return the number of visual tokens of an image."""
    per_side: int = shape.vision["image_size"] // shape.vision["patch_size"]
    return per_side**2


def make_transform(shape: Shape) -> ImageTransform:
    """Return the preprocessing of CLIP (open_clip/constants.py)."""
    return ImageTransform(
        size=shape.vision["image_size"],
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
    )


def build_ours(shape: Shape, chat: ChatFormat, device: torch.device) -> VisionLanguageModel:
    """Build a tower, linear connector and language model with random bf16 weights."""
    text = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        clip = open_clip.CLIP(64, vision_cfg=shape.vision, text_cfg=text, quick_gelu=True)
        language_model = _in_bf16(LlamaForCausalLM, LlamaConfig(**shape.language_model))
    tower = OpenClipTower(clip.visual, VisionTowerConfig(name="random"), make_transform(shape))
    connector = build_connector(
        ConnectorConfig(),
        vision_width=tower.width,
        model_width=shape.language_model["hidden_size"],
        seed=0,
    )
    model = VisionLanguageModel(
        tower, connector, language_model, image_token_id=chat.image_token_id
    ).to(device)
    for parameter in model.parameters():  # buffers (rotary frequencies) stay in fp32
        parameter.data = parameter.data.to(torch.bfloat16)
    return model


def build_llava(
    shape: Shape, chat: ChatFormat, device: torch.device
) -> LlavaForConditionalGeneration:
    """Build stock LLaVA at the same shapes; its connector always has two layers."""
    width = shape.vision["width"]
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=shape.vision["layers"],
        num_attention_heads=width // 64,
        image_size=shape.vision["image_size"],
        patch_size=shape.vision["patch_size"],
    )
    config = LlavaConfig(
        text_config=LlamaConfig(**shape.language_model),
        vision_config=vision,
        image_token_index=chat.image_token_id,
        image_seq_length=num_patches(shape),
    )
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        return _in_bf16(LlavaForConditionalGeneration, config)


def _in_bf16(kind: Any, config: Any) -> Any:
    config.dtype = torch.bfloat16
    return kind._from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")

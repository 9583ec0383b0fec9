"""Contrastive towers in open_clip's format."""

import json
from pathlib import Path

import safetensors.torch
from transformers import PreTrainedTokenizerFast

from core.io.files import atomic_write_bytes, atomic_write_text
from lightning_modules.contrastive.module import ContrastiveModule, clip_config
from models.towers.libraries.open_clip import OPEN_CLIP_CONFIG_FILE, OPEN_CLIP_WEIGHTS_FILE


def save_tower(folder: Path, module: ContrastiveModule, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write open_clip_config.json, model.safetensors (float16) and the tokenizer."""
    preprocess = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    config = {"model_cfg": clip_config(module.recipe), "preprocess_cfg": preprocess}
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in module.clip.state_dict().items()
    }
    atomic_write_text(folder / OPEN_CLIP_CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    atomic_write_bytes(folder / OPEN_CLIP_WEIGHTS_FILE, safetensors.torch.save(state))
    tokenizer.save_pretrained(folder)

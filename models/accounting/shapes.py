"""Models without weights, built on the meta device from a table of known architectures.

They serve plans and checks on machines that have neither the weights nor network access; training
does not use them. A folder's own config.json takes precedence over the table.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from core.errors import CheckpointError, ConfigError, unknown_name
from core.io.reading import reading
from models.connector import ConnectorConfig, count_placeholders, empty_connector
from models.language.language_model import LanguageModelConfig
from models.towers.vision_tower import VisionTower, VisionTowerConfig, empty_vision_tower
from models.vlm import VisionLanguageModel

_RESTORE = "restore config.json"
_LLAMA_31_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
"""meta-llama/Llama-3.1-8B config.json (Llama 3 Herd of Models, arXiv 2407.21783, table 3)."""
_SMOLLM2_135M = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
"""HuggingFaceTB/SmolLM2-135M config.json."""
_SMOLLM2_360M = _SMOLLM2_135M | {
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
}
"""HuggingFaceTB/SmolLM2-360M config.json."""

KNOWN_SHAPES: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": _LLAMA_31_8B,
    "Llama-3.1-8B-Instruct": _LLAMA_31_8B,
    "Latxa-Llama-3.1-8B": _LLAMA_31_8B,
    "Latxa-Llama-3.1-8B-Instruct": _LLAMA_31_8B,
    "SmolLM2-135M": _SMOLLM2_135M,
    "SmolLM2-135M-Instruct": _SMOLLM2_135M,
    "SmolLM2-360M": _SMOLLM2_360M,
    "SmolLM2-360M-Instruct": _SMOLLM2_360M,
}
"""Last part of a hub name or folder -> arguments of LlamaConfig."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmptyVlm:
    """Vision-language model on the meta device."""

    model: VisionLanguageModel
    tower: VisionTower
    num_image_tokens: int
    """Positions that an image takes in the text."""


def empty_vlm(
    tower: VisionTowerConfig, connector: ConnectorConfig, language_model: LanguageModelConfig
) -> EmptyVlm:
    """Build the model of a stage on the meta device.

    Raises:
        ConfigError: If the shape of the language model is unknown.
        CheckpointError: If the tower can't be built.
    """
    empty_tower = empty_vision_tower(tower)
    empty_lm = empty_shaped_model(language_model)
    with torch.device("meta"):
        fresh = empty_connector(
            connector,
            vision_width=empty_tower.width,
            model_width=empty_lm.config.hidden_size,
            language_model=empty_lm.config,
        )
    model = VisionLanguageModel(empty_tower, fresh, empty_lm, image_token_id=0)
    num_image_tokens = count_placeholders(connector, empty_tower.num_image_tokens)
    return EmptyVlm(model=model, tower=empty_tower, num_image_tokens=num_image_tokens)


def empty_shaped_model(config: LanguageModelConfig) -> PreTrainedModel:
    """Build a causal LM on the meta device; its shape is in its folder, the table or the hub cache.

    Raises:
        ConfigError: If the shape is unknown.
        CheckpointError: If the configuration in the folder is damaged.
    """
    shape = _find_shape(config)
    with (
        reading(config.path, fix=_RESTORE, error_class=CheckpointError),
        torch.device("meta"),
    ):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            shape, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
        )
    model.tie_weights()
    return model


def block_linears(language_model: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of the decoder blocks, which are those that get adapters."""
    decoder = language_model.get_decoder()  # type: ignore[operator]  # Hugging Face's name
    return [part for part in decoder.layers.modules() if isinstance(part, nn.Linear)]


def _find_shape(config: LanguageModelConfig) -> Any:
    if Path(config.path, "config.json").is_file():
        with reading(config.path, fix=_RESTORE, error_class=CheckpointError):
            return AutoConfig.from_pretrained(config.path, trust_remote_code=False)
    name = Path(config.path).name
    known = {known.lower(): shape for known, shape in KNOWN_SHAPES.items()}
    if name.lower() in known:
        return LlamaConfig(**known[name.lower()])
    threshold = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:  # the hub cache of an earlier run; never the network
        return AutoConfig.from_pretrained(
            config.path,
            revision=config.revision or "main",
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError) as error:
        fix = (
            f"'{config.path}' has no local config.json either; download the model, or add its "
            "shape to models/accounting/shapes.py"
        )
        raise ConfigError(unknown_name("model shape", name, KNOWN_SHAPES, fix=fix)) from error
    finally:
        logging.disable(threshold)

"""Models without weights: architectures by name, built on the meta device, counted exactly.

For plans and checks on machines that have neither the weights nor a network. A folder's own
config.json goes before the table; nothing here is used by a training.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from core.errors import ConfigError, unknown_name
from models.connector import ConnectorConfig, ConnectorKind, LinearConnector, MlpConnector
from models.language.language_model import LanguageModelConfig
from models.towers.vision_tower import VisionTower, VisionTowerConfig, empty_vision_tower
from models.vlm import VisionLanguageModel

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
    """The three parts on the meta device."""

    model: VisionLanguageModel
    tower: VisionTower


def empty_vlm(
    tower: VisionTowerConfig, connector: ConnectorConfig, language_model: LanguageModelConfig
) -> EmptyVlm:
    """The model of a stage without memory behind its parameters.

    Raises:
        ConfigError: a language model that is neither here nor in the table.
        CheckpointError: a tower that open_clip doesn't know.
    """
    eyes = empty_vision_tower(tower)
    words = empty_shaped_model(language_model)
    is_linear = connector.kind is ConnectorKind.LINEAR
    with torch.device("meta"):
        between = (LinearConnector if is_linear else MlpConnector)(
            eyes.width, words.config.hidden_size
        )
    model = VisionLanguageModel(eyes, between, words, image_token_id=0)
    return EmptyVlm(model=model, tower=eyes)


def empty_shaped_model(config: LanguageModelConfig) -> PreTrainedModel:
    """A causal LM on the meta device, of the shape its folder, the hub cache or the table says.

    Raises:
        ConfigError: as `empty_vlm`.
    """
    shape = _shape(config)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            shape, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
        )
    model.tie_weights()
    return model


def block_linears(language_model: nn.Module) -> list[nn.Linear]:
    """Every matrix of the decoder blocks: what low-rank adapters sit beside."""
    decoder = language_model.get_decoder()  # type: ignore[operator]  # Hugging Face's name
    return [part for part in decoder.layers.modules() if isinstance(part, nn.Linear)]


def _shape(config: LanguageModelConfig) -> Any:
    if Path(config.path, "config.json").is_file():
        return AutoConfig.from_pretrained(config.path, trust_remote_code=False)
    name = Path(config.path).name
    known = {known.lower(): shape for known, shape in KNOWN_SHAPES.items()}
    if name.lower() in known:
        return LlamaConfig(**known[name.lower()])
    threshold = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:  # what an earlier run left in the hub's cache; never the network
        return AutoConfig.from_pretrained(
            config.path,
            revision=config.revision or "main",
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError) as error:
        fix = (
            f"'{config.path}' has no config.json here either; fetch the model or add its shape to "
            "models/accounting/shapes.py"
        )
        raise ConfigError(unknown_name("model shape", name, KNOWN_SHAPES, fix=fix)) from error
    finally:
        logging.disable(threshold)

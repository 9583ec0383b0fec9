"""Loading and saving the language model: any Hugging Face causal LM, never remote code."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from core.errors import CheckpointError, ConfigError

_LOGIT_TRICKS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings that change logits after the output layer; the label-only loss does not apply them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Where a language model lies."""

    path: str
    """Local folder or hub name."""
    revision: str = ""
    """Hub revision; empty for a local folder."""


def load_language_model(config: LanguageModelConfig) -> PreTrainedModel:
    """Load a causal LM in fp32 with SDPA attention.

    Raises:
        CheckpointError: nothing there, or weights that would stay random.
        ConfigError: an architecture whose logits our loss would get wrong.
    """
    arguments: dict[str, Any] = {"revision": config.revision} if config.revision else {}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            config.path,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **arguments,
        )
    except (OSError, ValueError) as error:
        message = f"no language model at '{config.path}': {error}"
        raise CheckpointError(
            f"{message}. Give a folder with config.json and safetensors"
        ) from error
    if random := sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"])):
        raise CheckpointError(
            f"language model '{config.path}': {len(random)} weights are not in the file "
            f"or do not fit, e.g. {random[0]}; they would stay random"
        )
    check_language_model(model)
    return model


def empty_language_model(config: LanguageModelConfig) -> PreTrainedModel:
    """The same model without its weights: parameters on the meta device, buffers as they must be.

    `models.sharding` fills it rank by rank, so that no rank ever holds all of it.
    """
    from accelerate import init_empty_weights

    arguments: dict[str, Any] = {"revision": config.revision} if config.revision else {}
    shape = AutoConfig.from_pretrained(config.path, trust_remote_code=False, **arguments)
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            shape, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
        )
    model.tie_weights()
    check_language_model(model)
    return model


def weights_folder(config: LanguageModelConfig) -> Path:
    """Local folder of a model's safetensors; a hub name is downloaded to the cache first."""
    if Path(config.path).is_dir():
        return Path(config.path)
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            config.path, revision=config.revision or None, allow_patterns=["*.safetensors*"]
        )
    )


def check_language_model(model: PreTrainedModel) -> None:
    """Refuse models whose logits are more than the output layer applied to the last state.

    Raises:
        ConfigError: with the setting and its value.
    """
    for name in _LOGIT_TRICKS:
        value = getattr(model.config, name, None)
        if value not in (None, 1, 1.0):
            raise ConfigError(
                f"{type(model).__name__} sets {name}={value}, which the label-only loss "
                "does not apply; use a Llama-like model"
            )


def save_language_model(folder: Path, model: PreTrainedModel, *, fp16: bool = True) -> None:
    """Write config.json and safetensors; files that lie beside them (tokenizer) stay."""
    dtype = torch.float16 if fp16 else torch.float32
    state = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    tied = getattr(model, "all_tied_weights_keys", {})
    state = {name: value for name, value in state.items() if name not in tied}
    folder.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part, state_dict=state)
    for file in sorted(part.iterdir()):
        file.replace(folder / file.name)
    part.rmdir()

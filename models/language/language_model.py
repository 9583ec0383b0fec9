"""Loading and saving of Hugging Face causal language models, without remote code."""

import dataclasses
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from core.errors import CheckpointError, ConfigError
from core.io.files import use_umask
from core.io.hub import LOADING_ERRORS, explain_hub_error, hub_arguments
from core.io.reading import reading
from core.precision import Precision

_LOGIT_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings that change logits after the output layer, which our loss does not support."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Location of a language model."""

    path: str
    """Local folder or hub name."""
    revision: str = ""
    """Hub revision: a commit, or main to follow that branch; empty for a local folder."""


def loading_dtype(precision: str) -> torch.dtype:
    """Return the dtype of the loaded weights under a Lightning precision.

    Only `bf16-true` keeps 16-bit weights; mixed precision trains float32 weights.
    """
    return torch.bfloat16 if precision == Precision.BF16_TRUE else torch.float32


def load_language_model(
    config: LanguageModelConfig,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> PreTrainedModel:
    """Load a causal LM with SDPA attention; 8B parameters take 16 GB in bfloat16, 32 in float32.

    Args:
        config: Location of the model.
        dtype: Type of the weights.
        device: Where the weights go, one tensor at a time; None is the CPU. Eight processes that
            load a model for their GPUs do not need eight copies of it in main memory.

    Raises:
        CheckpointError: If the model is missing or inaccessible, or weights would stay random.
        ConfigError: If a hub name has no revision, or our loss does not support the model.
    """
    arguments = hub_arguments(config.path, config.revision, kind="language model")
    if device is not None and device.type != "cpu":
        arguments["device_map"] = {"": device}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            config.path,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **arguments,
        )
    except LOADING_ERRORS as error:
        raise _not_found(config, error) from error
    if random := sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"])):
        raise CheckpointError(
            f"language model '{config.path}': {len(random)} weights are missing "
            f"or have other shapes, e.g. {random[0]}; they would be initialised at random"
        )
    check_language_model(model)
    return model


def empty_language_model(
    config: LanguageModelConfig, *, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Build the model with parameters on the meta device and initialised buffers.

    `models.sharding` loads the weights shard by shard, so that no rank ever holds all of them.

    Raises:
        CheckpointError, ConfigError: See `load_language_model`.
    """
    from accelerate import init_empty_weights

    arguments = hub_arguments(config.path, config.revision, kind="language model")
    try:
        shape = AutoConfig.from_pretrained(config.path, trust_remote_code=False, **arguments)
    except LOADING_ERRORS as error:
        raise _not_found(config, error) from error
    with (
        reading(config.path, fix="restore config.json", error_class=CheckpointError),
        init_empty_weights(include_buffers=False),
    ):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            shape, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
        )
    model.tie_weights()
    check_language_model(model)
    return model


def weights_folder(config: LanguageModelConfig) -> Path:
    """Return the local folder of a model's safetensors; download a model on the hub first.

    Raises:
        CheckpointError, ConfigError: See `load_language_model`.
    """
    if Path(config.path).is_dir():
        return Path(config.path)
    from huggingface_hub import snapshot_download

    arguments = hub_arguments(config.path, config.revision, kind="language model")
    patterns = ["*.safetensors", "*.safetensors.index.json"]
    try:
        return Path(snapshot_download(config.path, allow_patterns=patterns, **arguments))
    except LOADING_ERRORS as error:
        raise _not_found(config, error) from error


def fit_vocabulary(model: PreTrainedModel, num_tokens: int) -> None:
    """Add embeddings for tokens that a template added, each the mean of the existing ones.

    A tokenizer smaller than the (padded) embeddings changes nothing.

    Raises:
        ConfigError: If the model has no weights yet (sharded loading), so there is no mean.
    """
    embeddings = model.get_input_embeddings()
    before = embeddings.num_embeddings
    if num_tokens <= before:
        return
    if embeddings.weight.is_meta:
        raise ConfigError(
            f"the chat template adds {num_tokens - before} tokens, which sharded loading does not "
            "support; use a template whose tokens the tokenizer has, or another compute.strategy"
        )
    # transformers' own mean_resizing would draw from the global random generator.
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            weight_VD = layer.weight
            # On the CPU, so that the mean does not depend on the device in its last bits.
            mean_D = weight_VD[:before].cpu().float().mean(dim=0)
            weight_VD[before:] = mean_D.to(weight_VD)


def _not_found(config: LanguageModelConfig, error: Exception) -> CheckpointError:
    reason = explain_hub_error(error, config.path, config.revision)
    return CheckpointError(
        f"no language model at '{config.path}': {reason}. "
        "Give a folder with config.json and safetensors, or a hub name"
    )


def check_language_model(model: PreTrainedModel) -> None:
    """Reject models that change logits after the output layer.

    Raises:
        ConfigError: If the model has such a setting.
    """
    for name in _LOGIT_SETTINGS:
        value = getattr(model.config.get_text_config(), name, None)
        if value not in (None, 1, 1.0):
            raise ConfigError(
                f"{type(model).__name__} sets {name}={value}, which our loss does not support; "
                "use a Llama-like model"
            )


def save_language_model(
    folder: Path, model: PreTrainedModel, *, dtype: torch.dtype = torch.float16
) -> None:
    """Write config.json and safetensors; other files of the folder (tokenizer) are kept."""
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
    use_umask(part)
    for file in sorted(part.iterdir()):
        file.replace(folder / file.name)
    part.rmdir()

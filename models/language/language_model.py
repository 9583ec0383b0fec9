"""Loading and saving the language model: any Hugging Face causal LM, never remote code."""

import dataclasses
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from core.errors import CheckpointError, ConfigError
from core.io.hub import explain, hub_arguments
from core.precision import Precision

_LOGIT_TRICKS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings that change logits after the output layer; the label-only loss does not apply them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Where a language model lies."""

    path: str
    """Local folder or hub name."""
    revision: str = ""
    """Hub revision, a commit or (knowingly moving) main; empty for a local folder."""


def loading_dtype(precision: str) -> torch.dtype:
    """Type of the loaded weights under a Lightning precision.

    Only `bf16-true` keeps 16-bit weights; mixed precision learns in float32.
    """
    return torch.bfloat16 if precision == Precision.BF16_TRUE else torch.float32


def load_language_model(
    config: LanguageModelConfig, *, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Load a causal LM with SDPA attention; bfloat16 takes 16 GB for 8B, float32 32.

    Raises:
        CheckpointError: nothing there, no access, or weights that would stay random.
        ConfigError: a hub name without revision; logits that our loss would get wrong.
    """
    arguments = hub_arguments(config.path, config.revision, kind="language model")
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
    except (OSError, ValueError) as error:
        raise _not_there(config, error) from error
    if random := sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"])):
        raise CheckpointError(
            f"language model '{config.path}': {len(random)} weights are not in the file "
            f"or do not fit, e.g. {random[0]}; they would stay random"
        )
    check_language_model(model)
    return model


def empty_language_model(
    config: LanguageModelConfig, *, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """The same model without its weights: parameters on the meta device, buffers as they must be.

    `models.sharding` fills it rank by rank, so that no rank ever holds all of it.

    Raises:
        CheckpointError, ConfigError: as `load_language_model`.
    """
    from accelerate import init_empty_weights

    arguments = hub_arguments(config.path, config.revision, kind="language model")
    try:
        shape = AutoConfig.from_pretrained(config.path, trust_remote_code=False, **arguments)
    except (OSError, ValueError) as error:
        raise _not_there(config, error) from error
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            shape, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
        )
    model.tie_weights()
    check_language_model(model)
    return model


def weights_folder(config: LanguageModelConfig) -> Path:
    """Local folder of a model's safetensors; a hub name is downloaded to the cache first.

    Raises:
        CheckpointError, ConfigError: as `load_language_model`.
    """
    if Path(config.path).is_dir():
        return Path(config.path)
    from huggingface_hub import snapshot_download

    arguments = hub_arguments(config.path, config.revision, kind="language model")
    patterns = ["*.safetensors", "*.safetensors.index.json"]
    try:
        return Path(snapshot_download(config.path, allow_patterns=patterns, **arguments))
    except (OSError, ValueError) as error:
        raise _not_there(config, error) from error


def fit_vocabulary(model: PreTrainedModel, num_tokens: int) -> None:
    """Give tokens that a template added their rows: each the mean of the rows that were there.

    A tokenizer smaller than the embeddings (padded ones) changes nothing.

    Raises:
        ConfigError: the model has no weights yet (sharded loading), so there is no mean.
    """
    embeddings = model.get_input_embeddings()
    before = embeddings.num_embeddings
    if num_tokens <= before:
        return
    if embeddings.weight.is_meta:
        raise ConfigError(
            f"the chat template adds {num_tokens - before} tokens, which sharded loading can't; "
            "take a template whose marks the tokenizer has, or another compute.strategy"
        )
    # Not transformers' own mean_resizing: that one draws from the global random numbers.
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            weight_VD = layer.weight
            weight_VD[before:] = weight_VD[:before].float().mean(dim=0).to(weight_VD.dtype)


def _not_there(config: LanguageModelConfig, error: Exception) -> CheckpointError:
    reason = explain(error, config.path, config.revision)
    return CheckpointError(
        f"no language model at '{config.path}': {reason}. "
        "Give a folder with config.json and safetensors, or a hub name"
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

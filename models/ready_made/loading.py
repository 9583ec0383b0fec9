"""Loading of ready-made models and their processors, without remote code."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from core.chat.ready_made import ReadyMadeChat
from core.errors import CheckpointError, ConfigError, IrudimenError
from core.io.hub import LOADING_ERRORS, explain_hub_error, hub_arguments
from models.language.language_model import check_language_model
from models.ready_made.model import ReadyMadeVlm
from models.ready_made.model_class import model_class

_TEMPLATE_FILE = "chat_template.jinja"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadyMadeSource:
    """Location of a ready-made model, and limits of its images."""

    path: str
    """Local folder or hub name."""
    revision: str = ""
    """Hub revision: a commit, or main to follow that branch; empty for a local folder."""
    min_pixels: int | None = None
    """Smallest number of pixels to which an image is resized; None keeps the processor's own."""
    max_pixels: int | None = None
    """Largest number of pixels to which an image is resized; None keeps the processor's own."""


def load_ready_made(
    source: ReadyMadeSource,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> ReadyMadeVlm:
    """Load a model with SDPA attention.

    Args:
        source: Location of the model.
        dtype: Type of the weights.
        device: Where the weights go, one tensor at a time; None is the CPU.

    Raises:
        CheckpointError: If the model is missing or inaccessible, or weights would stay random.
        ConfigError: If a hub name has no revision, or the class is not supported.
    """
    arguments = hub_arguments(source.path, source.revision, kind="model")
    rules = model_class(load_shape(source), source.path)
    if device is not None and device.type != "cpu":
        arguments["device_map"] = {"": device}
    try:
        stock, info = AutoModelForImageTextToText.from_pretrained(
            source.path,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **arguments,
        )
    except LOADING_ERRORS as error:
        raise _not_found(source, error) from error
    if random := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise CheckpointError(
            f"model '{source.path}': {len(random)} weights are missing or have other shapes, e.g. "
            f"{random[0]}; they would be initialised at random"
        )
    check_language_model(stock)
    return ReadyMadeVlm(stock, rules)


def empty_ready_made(shape: Any, source: str) -> ReadyMadeVlm:
    """Build a model of some shape on the meta device.

    Raises:
        ConfigError: If the class is not supported.
    """
    with torch.device("meta"):
        stock: PreTrainedModel = AutoModelForImageTextToText.from_config(
            shape, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
        )
    stock.tie_weights()
    return ReadyMadeVlm(stock, model_class(shape, source))


def load_shape(source: ReadyMadeSource, *, is_local: bool = False) -> Any:
    """Load the configuration of a model.

    Args:
        source: Location of the model.
        is_local: Do not ask the hub; a plan needs no network.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    arguments = hub_arguments(source.path, source.revision, kind="model")
    try:
        return AutoConfig.from_pretrained(
            source.path, trust_remote_code=False, local_files_only=is_local, **arguments
        )
    except LOADING_ERRORS as error:
        raise _not_found(source, error) from error


def load_chat(source: ReadyMadeSource, *, is_local: bool = False) -> ReadyMadeChat:
    """Load the processor of a model and examine its chat template.

    Args:
        source: Location of the model.
        is_local: Do not ask the hub; a plan needs no network.

    Raises:
        ConfigError: If the processor is missing or damaged, or can't be used for training.
        CheckpointError: If the configuration is missing or damaged.
    """
    arguments = hub_arguments(source.path, source.revision, kind="model")
    rules = model_class(load_shape(source, is_local=is_local), source.path)
    try:
        processor: Any = AutoProcessor.from_pretrained(
            source.path, trust_remote_code=False, local_files_only=is_local, **arguments
        )
    except LOADING_ERRORS as error:
        reason = explain_hub_error(error, source.path, source.revision)
        raise ConfigError(f"no processor at '{source.path}': {reason}") from error
    for name in ("tokenizer", "image_processor"):
        if getattr(processor, name, None) is None:
            raise ConfigError(
                f"model '{source.path}' has no processor for text and images ({name} is missing); "
                "add its files"
            )
    template = Path(source.path) / _TEMPLATE_FILE
    if not getattr(processor, "chat_template", None) and template.is_file():
        processor.chat_template = template.read_text(encoding="utf-8")
    _limit_pixels(processor.image_processor, source)
    positions = rules.rotary_positions if rules.has_rotary_axes else None
    try:
        return ReadyMadeChat(processor, rotary_positions=positions)
    except IrudimenError as error:
        raise ConfigError(f"model '{source.path}': {error}") from error


def has_chat(source: ReadyMadeSource) -> bool:
    """Return whether the processor can be loaded without network."""
    threshold = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        load_chat(source, is_local=True)
    except (ConfigError, CheckpointError):
        return False
    finally:
        logging.disable(threshold)
    return True


def _limit_pixels(image_processor: Any, source: ReadyMadeSource) -> None:
    """Set the limits of the number of pixels, where the image processor has them.

    Raises:
        ConfigError: If it has none and a limit is set.
    """
    limits = {"shortest_edge": source.min_pixels, "longest_edge": source.max_pixels}
    changed = {name: limit for name, limit in limits.items() if limit is not None}
    if not changed:
        return
    size = dict(image_processor.size)
    # Here, these names mean numbers of pixels, in spite of what they say.
    if set(size) != set(limits) or not hasattr(image_processor, "merge_size"):
        raise ConfigError(
            f"model.ready_made.min_pixels and max_pixels: the image processor of '{source.path}' "
            f"({type(image_processor).__name__}) has no limits of the number of pixels; remove them"
        )
    image_processor.size = {**size, **changed}


def _not_found(source: ReadyMadeSource, error: Exception) -> CheckpointError:
    if isinstance(error, IrudimenError):
        raise error
    reason = explain_hub_error(error, source.path, source.revision)
    return CheckpointError(
        f"no model at '{source.path}': {reason}. Give a folder in Hugging Face format, or a hub "
        "name"
    )

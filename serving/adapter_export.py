"""Export of what a ready-made model learned, apart from its base: adapters in the format of PEFT.

Parts that were trained fully beside the adapters (by default the connector) are stored as PEFT's
`modules_to_save`, so that `load_adapter` of transformers restores them, too.
"""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from core.errors import CheckpointError, ConfigError
from core.io.files import atomic_write_text
from core.io.hub import hub_arguments
from models.language.adapters import TuningConfig, TuningKind, adapter_names
from models.ready_made.loading import ReadyMadeSource
from pipeline.assemble_ready_made import ReadyMadeParts
from serving.export_check import ParityReport
from serving.ready_made_export import compare_logits, set_end_tokens

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""Beginning of the names of weights in files of PEFT."""
_ADAPTER = ".default."
"""PEFT's name of the only adapter, which files leave out."""


def check_adapter_export(tuning: TuningConfig, *, is_ready_made: bool) -> None:
    """Check that a cell has adapters that transformers can add to a published model.

    Raises:
        ConfigError: If it has none, or they belong to other weights.
    """
    if not is_ready_made:
        raise ConfigError(
            "--to peft exports adapters of ready-made models (model.family=hf); the language model "
            "of a composed model is exported with merged adapters: use --to hf or --to irudimen"
        )
    if tuning.kind is TuningKind.FULL:
        raise ConfigError("instruct.tuning.kind=full trains no adapters; use --to hf")
    if tuning.kind is TuningKind.QLORA:
        raise ConfigError(
            "instruct.tuning.kind=qlora trains adapters of 4-bit weights, which are not those of "
            "the published model; use --to hf, which adds them to the dequantised weights"
        )


def write_adapter(
    folder: Path,
    parts: ReadyMadeParts,
    *,
    source: ReadyMadeSource,
    tuning: TuningConfig,
    dtype: torch.dtype,
) -> None:
    """Write adapters, fully trained modules, generation settings and the processor.

    The trained weights of `parts` are rounded to `dtype` in place.

    Args:
        folder: Existing folder.
        parts: The trained model, whose adapters are not merged.
        source: The model that was trained further.
        tuning: How its language model was trained.
        dtype: Type of the weights in the file.

    Raises:
        ConfigError: If a trained weight is not part of a module that PEFT can store.
        CheckpointError: If the files can't be written.
    """
    stock: Any = parts.model.stock
    adapters = adapter_names(stock)
    trained = {name: p for name, p in stock.named_parameters() if p.requires_grad}
    config = LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=_adapted_modules(adapters),
        modules_to_save=_trained_modules(stock, "", adapters) or None,
        base_model_name_or_path=source.path,
        revision=source.revision or None,
        inference_mode=True,
    )
    state = {}
    for name, parameter in trained.items():
        parameter.data = parameter.data.to(dtype)
        state[_PREFIX + name.replace(_ADAPTER, ".")] = parameter.data.contiguous().clone()
        parameter.data = parameter.data.float()
    try:
        save_file(state, folder / _WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:  # its only error for a full disk
        raise CheckpointError(f"{folder}: the weights can't be written ({error})") from error
    _write_config(folder, config)
    set_end_tokens(parts)
    stock.generation_config.save_pretrained(folder)
    parts.chat.processor.save_pretrained(folder)


@torch.no_grad()
def check_adapter(folder: Path, parts: ReadyMadeParts, source: ReadyMadeSource) -> ParityReport:
    """Add an export to the published model in transformers, and compare ids and logits.

    Raises:
        CheckpointError: If a weight is missing or unexpected, or ids or logits differ.
    """
    arguments = hub_arguments(source.path, source.revision, kind="model")
    theirs: Any = AutoModelForImageTextToText.from_pretrained(
        source.path, dtype=torch.float32, attn_implementation="sdpa", **arguments
    )
    info = theirs.load_adapter(str(folder))
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    problems = {kind: sorted(map(str, found)) for kind in kinds if (found := getattr(info, kind))}
    if problems:
        raise CheckpointError(f"transformers can't load the adapters completely: {problems}")
    return compare_logits(theirs, AutoProcessor.from_pretrained(folder), parts)


def _write_config(folder: Path, config: LoraConfig) -> None:
    """Write the settings of the adapters; PEFT keeps names in a set, whose order varies."""
    config.save_pretrained(str(folder))
    content = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    ordered = {key: sorted(x) if isinstance(x, list) else x for key, x in content.items()}
    atomic_write_text(folder / _CONFIG, json.dumps(ordered, indent=2, sort_keys=True) + "\n")


def _adapted_modules(adapters: frozenset[str]) -> list[str]:
    """Return the full names of the layers with adapters."""
    return sorted({name.partition(".lora_")[0] for name in adapters})


def _trained_modules(module: nn.Module, name: str, adapters: frozenset[str]) -> list[str]:
    """Return the largest modules whose weights are all trained, adapters apart.

    Raises:
        ConfigError: If a trained weight belongs to a module with frozen ones.
    """
    inside = {
        f"{name}.{inner}".lstrip("."): parameter for inner, parameter in module.named_parameters()
    }
    trained = {key for key, p in inside.items() if p.requires_grad and key not in adapters}
    if not trained:
        return []
    # PEFT can't wrap a list of modules, but each of them.
    if name and len(trained) == len(inside) and not isinstance(module, nn.ModuleList):
        return [name]
    for own, parameter in module.named_parameters(recurse=False):
        if parameter.requires_grad:
            raise ConfigError(
                f"the weight '{name}.{own}' was trained, but PEFT stores whole modules, and others "
                f"of '{name}' are frozen; use --to hf"
            )
    found = (_trained_modules(child, f"{name}.{key}".lstrip("."), adapters)
             for key, child in module.named_children())  # fmt: skip
    return [one for names in found for one in names]

"""Tokenizer and processor files that transformers 4 and 5 load alike.

transformers 5 writes names that version 4 does not know, and leaves out settings for which version
4 has other defaults. Both versions read what this module writes.
"""

import json
from pathlib import Path
from typing import Any

from core.errors import CheckpointError
from core.io.files import atomic_write_text
from core.io.reading import read_json_file

TOKENIZER_CONFIG, TOKENIZER = "tokenizer_config.json", "tokenizer.json"
PROCESSOR_CONFIG, IMAGE_PROCESSOR_CONFIG = "processor_config.json", "preprocessor_config.json"
_PORTABLE_CLASS = "PreTrainedTokenizerFast"
_CLASSES_OF_5 = frozenset({"TokenizersBackend", None})
_SETTINGS_OF_5 = ("backend", "is_local", "local_files_only")
_INPUTS = ["input_ids", "attention_mask"]


def make_portable(folder: Path) -> None:
    """Rewrite the tokenizer's and the processor's files in a model folder.

    Raises:
        CheckpointError: If a file is damaged.
    """
    path = folder / TOKENIZER_CONFIG
    config = _read_settings(path)
    if config.get("tokenizer_class") in _CLASSES_OF_5:
        config["tokenizer_class"] = _PORTABLE_CLASS
    if isinstance(config.get("extra_special_tokens"), list):  # in version 4, it is a mapping
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    for name in _SETTINGS_OF_5:
        config.pop(name, None)
    # Without it, version 4 also returns token_type_ids, which `generate` rejects.
    config["model_input_names"] = _INPUTS
    # Without it, version 4 removes the prefix space of the pre-tokenizer: other ids, no warning.
    config["add_prefix_space"] = _adds_prefix_space(folder)
    _write_settings(path, config)
    path = folder / PROCESSOR_CONFIG
    if path.is_file() and (folder / IMAGE_PROCESSOR_CONFIG).is_file():
        config = _read_settings(path)
        if config.pop("image_processor", None) is not None:
            _write_settings(path, config)


def check_portable(folder: Path) -> None:
    """Check that transformers 4 can load the tokenizer and the processor of a model folder.

    Version 5 loads other files as well, so a check that loads the folder does not show it.

    Raises:
        CheckpointError: If a file has what version 4 rejects, or silently reads in another way.
    """
    config = _read_settings(folder / TOKENIZER_CONFIG)
    faults = []
    if config.get("tokenizer_class") in _CLASSES_OF_5:
        faults.append(f"tokenizer_class {config.get('tokenizer_class')}")
    if isinstance(config.get("extra_special_tokens"), list):
        faults.append("extra_special_tokens as a list")
    if config.get("model_input_names") != _INPUTS:
        faults.append(f"model_input_names {config.get('model_input_names')}")
    if config.get("add_prefix_space") is not _adds_prefix_space(folder):
        faults.append(f"add_prefix_space {config.get('add_prefix_space')}")
    processor = folder / PROCESSOR_CONFIG
    if processor.is_file() and "image_processor" in _read_settings(processor):
        faults.append("image_processor inside processor_config.json")
    if faults:
        raise CheckpointError(
            f"{folder}: transformers 4 can't read {', '.join(faults)}; report this bug"
        )


def _adds_prefix_space(folder: Path) -> bool:
    """Return whether the pre-tokenizer itself, not one in a sequence, adds a space to a text."""
    pre_tokenizer = _read_settings(folder / TOKENIZER).get("pre_tokenizer") or {}
    return bool(pre_tokenizer.get("add_prefix_space"))


def _read_settings(path: Path) -> dict[str, Any]:
    content = read_json_file(path, fix="export the model again", error_class=CheckpointError)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not an object; export the model again")
    return content


def _write_settings(path: Path, content: dict[str, Any]) -> None:
    atomic_write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

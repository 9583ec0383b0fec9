"""Files of a local model folder that decide what is loaded from it."""

from functools import partial
from pathlib import Path

from core.errors import CheckpointError
from core.io.files import sha256_once
from core.io.reading import read_json_file

_SUFFIXES = frozenset({".safetensors", ".bin", ".json", ".model", ".tiktoken", ".jinja"})
_NAMES = frozenset({"merges.txt", "vocab.txt"})
"""Files of a model folder that determine weights, tokenizer, prompts or image processing."""


def hash_model_folder(folder: Path) -> dict[str, str]:
    """Return path -> sha256 of every file that can change what is loaded from a folder.

    Raises:
        OSError: If a file can't be read.
    """
    files = sorted(filter(partial(_is_of_model, folder), folder.rglob("*")))
    return {str(file): sha256_once(file) for file in files}


def check_model_settings(folder: Path) -> None:
    """Check that every JSON file of a checkpoint holds an object; a hub name has no files here.

    transformers replaces some damaged files, such as generation_config.json, by defaults.

    Raises:
        CheckpointError: If a file is damaged.
    """
    for path in sorted(folder.glob("*.json")):
        content = read_json_file(path, fix="restore the file", error_class=CheckpointError)
        if not isinstance(content, dict):
            found = type(content).__name__
            raise CheckpointError(f"{path} holds {found}, expected an object; restore the file")


def _is_of_model(folder: Path, path: Path) -> bool:
    if any(part.startswith(".") for part in path.relative_to(folder).parts):
        return False  # download caches and version control
    is_named = path.suffix in _SUFFIXES or path.name in _NAMES
    return is_named and path.is_file()

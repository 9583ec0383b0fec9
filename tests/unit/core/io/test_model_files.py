"""Files of a model folder that are part of addresses."""

from pathlib import Path

from core.io.model_files import hash_model_folder


def test_every_file_of_a_model_that_can_change_it_counts(tmp_path: Path) -> None:
    """Sentencepiece models and merges were left out, as were folders inside."""
    for name in ("model.safetensors", "tokenizer.model", "merges.txt", "sub/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    for name in ("README.md", ".cache/state.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = hash_model_folder(tmp_path)
    assert sorted(Path(name).relative_to(tmp_path).as_posix() for name in found) == [
        "merges.txt",
        "model.safetensors",
        "sub/config.json",
        "tokenizer.model",
    ]

"""Hashes of the data, weights and definitions that stages read."""

from collections.abc import Iterable
from pathlib import Path

from core.config import fingerprint
from core.io.model_files import hash_model_folder
from datamodules.shards.manifest import load_manifest, verify
from pipeline.stages.base import Stage

_DEEP_VERIFY_BYTES = 1 << 30
"""Sources up to this size are read and hashed before anything starts; larger ones are checked by
their file sizes only."""


class ContentHashes:
    """Hashes of manifests and weights; each file is read once per command."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._verified: set[object] = set()
        self._expected: set[str] = set()
        self.missing: set[str] = set()
        """Expected manifests that stages read but that don't exist yet."""

    def expect(self, paths: Iterable[str]) -> None:
        """Accept these manifests where they don't exist."""
        self._expected |= set(paths)

    def is_missing(self, path: str) -> bool:
        """Return whether a manifest is expected and does not exist yet."""
        return path in self._expected and not Path(path).exists()

    def of_stage(self, stage: Stage) -> dict[str, str]:
        """Return path or name -> hash of everything that a stage reads besides its fields."""
        content = {path: self._hash_manifest(path) for path in stage.manifests}
        for folder in stage.weight_folders:
            content |= _hash_weights(folder)
        definitions = {name: fingerprint(value) for name, value in stage.definitions.items()}
        return content | definitions

    def _hash_manifest(self, path: str) -> str:
        """Return the fingerprint of a manifest, after checking that its shards are intact."""
        if self.is_missing(path):
            self.missing.add(path)
            return "expected"
        if path not in self._known:
            manifest = load_manifest(Path(path))
            # Sources of several languages list the same shards: read them once.
            shards = (Path(path).parent, manifest.shards)
            is_small = sum(shard.num_bytes for shard in manifest.shards) <= _DEEP_VERIFY_BYTES
            verify(Path(path), deep=is_small and shards not in self._verified)
            self._verified.add(shards)
            self._known[path] = manifest.fingerprint()
        return self._known[path]


def _hash_weights(path: str) -> dict[str, str]:
    """Return the hashes of a local model folder; a hub name is pinned by its revision."""
    folder = Path(path)
    return hash_model_folder(folder) if path and folder.is_dir() else {}

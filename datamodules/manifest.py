"""What a source is made of: the manifest beside its shards, read, checked and written.

Several sources may list the same shards with another `record`, so a picture lies on disk once for
all its languages.
"""

import dataclasses
import json
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from core import config
from core.errors import DataError, unknown_name
from core.files import atomic_write_text, safe_join, sha256_file
from datamodules import shards

FORMAT = 1
SUFFIX = ".manifest.json"

_Kind = TypeVar("_Kind")


class Modality(StrEnum):
    """What a source's samples hold."""

    IMAGE_TEXT = "image-text"
    TEXT = "text"
    BENCHMARK = "benchmark"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """One shard as the manifest lists it."""

    path: str
    """Relative to the manifest's folder."""
    sha256: str
    num_bytes: int
    num_samples: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """One source: (dataset, language, modality)."""

    name: str
    language: str
    modality: Modality
    record: str
    """Dotted path of the record inside a sample's JSON, "" for the plain form."""
    licence: str
    provenance: Any
    """Where the data come from: a sentence or a JSON tree."""
    shards: tuple[ShardEntry, ...]
    statistics: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.num_samples for shard in self.shards)

    def fingerprint(self) -> str:
        """Content address: what changes a sample changes it; paths and statistics do not."""
        content = [(shard.sha256, shard.num_samples) for shard in self.shards]
        names = [FORMAT, self.name, self.language, self.modality, self.record]
        return config.fingerprint([names, content])


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        DataError: no such file, not JSON, or a field that is missing or wrong.
    """
    if not path.is_file():
        raise DataError(f"manifest {path} does not exist; prepare the data or correct the path")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"manifest {path} is not JSON: {error}; prepare the data again") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise DataError(
            f"manifest {path} has format {found!r}, expected {FORMAT}; prepare the data again"
        )
    entries = _field(raw, "shards", list, path)
    if not entries:
        raise DataError(f"manifest {path} lists no shards; prepare the data again")
    modality = _field(raw, "modality", str, path)
    if modality not in list(Modality):
        raise DataError(f"manifest {path}: {unknown_name('modality', modality, list(Modality))}")
    return Manifest(
        name=_field(raw, "name", str, path),
        language=_field(raw, "language", str, path),
        modality=Modality(modality),
        record=_field(raw, "record", str, path),
        licence=_field(raw, "licence", str, path),
        provenance=raw.get("provenance"),
        shards=tuple(_shard_entry(entry, path) for entry in entries),
        statistics=_field(raw, "statistics", dict, path) if "statistics" in raw else {},
    )


def save_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest so that `load_manifest` gives an equal one."""
    content = {"format": FORMAT, **config.to_plain(manifest)}
    atomic_write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def shard_path(manifest_path: Path, entry: ShardEntry) -> Path:
    """Where a shard of the manifest lies; never outside the manifest's folder."""
    return safe_join(manifest_path.parent, entry.path)


def verify(path: Path, *, deep: bool = False) -> Manifest:
    """Check that the shards and indexes of a manifest are there and are the ones it lists.

    Args:
        path: The manifest.
        deep: Also read every byte: checksums, and the indexes against the tars.

    Raises:
        DataError: with the file and what to do about it.
    """
    manifest = load_manifest(path)
    for entry in manifest.shards:
        shard = shard_path(path, entry)
        if not shard.is_file():
            raise DataError(f"shard {shard} of {path.name} is missing; fetch or prepare it again")
        if (size := shard.stat().st_size) != entry.num_bytes:
            raise DataError(
                f"shard {shard} has {size} bytes, {path.name} says {entry.num_bytes}; it was cut "
                "or replaced: fetch or prepare it again"
            )
        index = shards.read_index(shard)
        if len(index) != entry.num_samples:
            raise DataError(
                f"index of shard {shard} has {len(index)} samples, {path.name} says "
                f"{entry.num_samples}; write the index again"
            )
        if deep:
            _verify_content(shard, entry, index)
    return manifest


def _verify_content(shard: Path, entry: ShardEntry, index: np.ndarray) -> None:
    if (found := sha256_file(shard)) != entry.sha256:
        raise DataError(
            f"shard {shard} has sha256 {found}, the manifest says {entry.sha256}; it is damaged: "
            "fetch or prepare it again"
        )
    if not np.array_equal(shards.build_index(shard), index):
        raise DataError(f"index of shard {shard} does not describe it; write the index again")


def _shard_entry(raw: Any, path: Path) -> ShardEntry:
    if not isinstance(raw, dict):
        raise DataError(f"manifest {path}: a shard entry is {raw!r}, expected an object")
    entry = ShardEntry(
        path=_field(raw, "path", str, path),
        sha256=_field(raw, "sha256", str, path),
        num_bytes=_field(raw, "num_bytes", int, path),
        num_samples=_field(raw, "num_samples", int, path),
    )
    if entry.num_samples < 1:
        raise DataError(
            f"manifest {path}: shard '{entry.path}' has num_samples={entry.num_samples}, expected "
            "at least 1; leave empty shards out"
        )
    return entry


def _field(raw: dict[str, Any], name: str, kind: type[_Kind], path: Path) -> _Kind:
    value = raw.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        found = repr(value) if name in raw else "missing"
        raise DataError(
            f"manifest {path}: field '{name}' is {found}, expected {kind.__name__}; prepare the "
            "data again"
        )
    return value

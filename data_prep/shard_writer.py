"""Writes shards, indexes and manifests; the same samples give the same bytes everywhere."""

import dataclasses
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.files import atomic_write_bytes, sha256_bytes
from datamodules.manifest import SUFFIX, Manifest, Modality, ShardEntry, save_manifest
from datamodules.shards import write_index

_SUFFIXES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardSample:
    """One sample to be written."""

    key: str
    content: dict[str, Any]
    """The JSON without its "id", which is the key."""
    image: bytes | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceInfo:
    """What a manifest says beside its shards."""

    name: str
    language: str
    modality: Modality
    record: str
    licence: str
    provenance: dict[str, Any]
    statistics: dict[str, Any] = dataclasses.field(default_factory=dict)


def write_shards(
    folder: Path, prefix: str, samples: Iterable[ShardSample], *, per_shard: int
) -> tuple[ShardEntry, ...]:
    """Write `{prefix}-000000.tar` and so on, sorted by key, each with its index."""
    ordered = sorted(samples, key=lambda sample: sample.key)
    if not ordered:
        raise DataError(f"no samples for {folder / prefix}; ask for more concepts or texts")
    return tuple(
        _write_shard(folder, f"{prefix}-{start // per_shard:06d}.tar", ordered[start:][:per_shard])
        for start in range(0, len(ordered), per_shard)
    )


def write_manifest(folder: Path, info: SourceInfo, shards: Sequence[ShardEntry]) -> Path:
    """Write the manifest of a source beside its shards."""
    path = folder / f"{info.name}{SUFFIX}"
    manifest = Manifest(
        name=info.name,
        language=info.language,
        modality=info.modality,
        record=info.record,
        licence=info.licence,
        provenance=info.provenance,
        shards=tuple(shards),
        statistics=info.statistics,
    )
    save_manifest(path, manifest)
    return path


def _write_shard(folder: Path, name: str, samples: Sequence[ShardSample]) -> ShardEntry:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            if sample.image is not None:
                _add(tar, f"{sample.key}.{_suffix(sample.image)}", sample.image)
            text = json.dumps(
                {"id": sample.key, **sample.content}, ensure_ascii=False, separators=(",", ":")
            )
            _add(tar, f"{sample.key}.json", text.encode("utf-8"))
    content = buffer.getvalue()
    atomic_write_bytes(folder / name, content)
    write_index(folder / name)
    return ShardEntry(
        path=name,
        sha256=sha256_bytes(content),
        num_bytes=len(content),
        num_samples=len(samples),
    )


def _suffix(picture: bytes) -> str:
    """By the first bytes; readers decode by content, people and other programs go by the name."""
    return next((name for magic, name in _SUFFIXES.items() if picture.startswith(magic)), "webp")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    # A fresh TarInfo has time 0, owner 0 and no names: nothing of this machine gets in.
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(content))

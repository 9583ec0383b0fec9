"""Writes shards, indexes and manifests; the same samples give the same bytes everywhere."""

import dataclasses
import hashlib
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import DataError
from core.io.files import atomic_file
from datamodules.shards.manifest import SUFFIX, Manifest, Modality, ShardEntry, save_manifest
from datamodules.shards.reader import check_key, write_known_index

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
        write_shard(folder, f"{prefix}-{start // per_shard:06d}.tar", ordered[start:][:per_shard])
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


def write_shard(folder: Path, name: str, samples: Sequence[ShardSample]) -> ShardEntry:
    """One shard and its index; in place only when it is whole.

    Raises:
        DataError: a key that appears twice, or that can't be one.
    """
    places = dict[str, dict[str, int]]()
    with atomic_file(folder / name) as file:
        tar = _Tar(file)
        for sample in samples:
            check_key(folder / name, sample.key)
            if sample.key in places:
                raise DataError(f"{folder / name}: the key '{sample.key}' appears twice")
            places[sample.key] = _add(tar, sample)
        tar.close()
    write_known_index(folder / name, places)
    return ShardEntry(
        path=name,
        sha256=tar.digest.hexdigest(),
        num_bytes=tar.num_bytes,
        num_samples=len(samples),
    )


def _add(tar: "_Tar", sample: ShardSample) -> dict[str, int]:
    """Append a sample; where it lies, as an index says it."""
    place = {}
    if sample.image is not None:
        offset = tar.add(f"{sample.key}.{_suffix(sample.image)}", sample.image)
        place = {"image_offset": offset, "image_size": len(sample.image)}
    text = json.dumps(
        {"id": sample.key, **sample.content}, ensure_ascii=False, separators=(",", ":")
    ).encode("utf-8")
    offset = tar.add(f"{sample.key}.json", text)
    return {**place, "json_offset": offset, "json_size": len(text)}


class _Tar:
    """Writes a tar whose headers are tarfile's; knows its hash and where every member lies."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.num_bytes = 0
        self.digest = hashlib.sha256()

    def add(self, name: str, content: bytes) -> int:
        """Append a member; returns where its content begins."""
        # A fresh TarInfo has time 0, owner 0 and no names: nothing of this machine gets in.
        info = tarfile.TarInfo(name)
        info.size = len(content)
        info.mode = 0o644
        header = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
        place = self.num_bytes + len(header)
        self._write(header)
        self._write(content)
        self._write(bytes(-len(content) % tarfile.BLOCKSIZE))
        return place

    def close(self) -> None:
        """Write the end mark, and fill the last record as tarfile does."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self.num_bytes % tarfile.RECORDSIZE))

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self.digest.update(content)
        self.num_bytes += len(content)


def _suffix(image: bytes) -> str:
    """By the first bytes; readers decode by content, people and other programs go by the name."""
    return next((name for magic, name in _SUFFIXES.items() if image.startswith(magic)), "webp")

"""Write shards, their indexes and manifests; equal samples give equal bytes on every machine.

Shards are written by `webdataset.TarWriter` with a fixed owner, mode and time in every header, so
that their sha256 depends on the samples alone. `ShardWriter` adds only the split into files, which
cannot be atomic: it opens each shard under its final name.
"""

import dataclasses
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from webdataset import TarWriter

from core.errors import DataError
from core.io.files import atomic_file
from datamodules.shards.manifest import SUFFIX, Manifest, Modality, ShardEntry, save_manifest
from datamodules.shards.reader import check_key, write_known_index

_SUFFIXES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png"}
_FIXED_HEADER: dict[str, Any] = {"user": "", "group": "", "mode": 0o644, "mtime": 0}
_HASH_BLOCK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardSample:
    """A sample to write."""

    key: str
    content: dict[str, Any]
    """The JSON record without its "id", which is the key."""
    image: bytes | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceInfo:
    """The fields of a manifest other than its shards."""

    name: str
    language: str
    modality: Modality
    record: str
    licence: str
    provenance: dict[str, Any]
    statistics: dict[str, Any] = dataclasses.field(default_factory=dict)
    num_rounds: int = 1


def write_shards(
    folder: Path, prefix: str, samples: Iterable[ShardSample], *, per_shard: int
) -> tuple[ShardEntry, ...]:
    """Write the samples, sorted by key, to `{prefix}-000000.tar` and so on, each with its index.

    Raises:
        DataError: If there are no samples.
    """
    ordered = sorted(samples, key=lambda sample: sample.key)
    if not ordered:
        raise DataError(
            f"no samples for {folder / prefix}; increase the number of concepts or texts"
        )
    return tuple(
        write_shard(folder, f"{prefix}-{start // per_shard:06d}.tar", ordered[start:][:per_shard])
        for start in range(0, len(ordered), per_shard)
    )


def write_manifest(folder: Path, info: SourceInfo, shards: Sequence[ShardEntry]) -> Path:
    """Write the manifest of a source next to its shards and return its path."""
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
        num_rounds=info.num_rounds,
    )
    save_manifest(path, manifest)
    return path


def write_shard(folder: Path, name: str, samples: Sequence[ShardSample]) -> ShardEntry:
    """Write one shard and its index; the file appears under its name only when it is complete.

    Raises:
        DataError: If a key appears twice or is not a valid key.
    """
    places = dict[str, dict[str, int]]()
    with atomic_file(folder / name) as file:
        hashed = _HashingFile(file)
        # tarfile writes blocks of 10 KiB; the buffer gathers them before they are hashed.
        with (
            io.BufferedWriter(hashed, _HASH_BLOCK_BYTES) as buffered,
            TarWriter(buffered, encoder=False, compress=False, **_FIXED_HEADER) as tar,
        ):
            for sample in samples:
                check_key(folder / name, sample.key)
                if sample.key in places:
                    raise DataError(f"{folder / name}: the key '{sample.key}' appears twice")
                places[sample.key] = _write_sample(tar, sample)
    write_known_index(folder / name, places)
    return ShardEntry(
        path=name,
        sha256=hashed.digest.hexdigest(),
        num_bytes=hashed.num_bytes,
        num_samples=len(samples),
    )


def _write_sample(tar: TarWriter, sample: ShardSample) -> dict[str, int]:
    """Append a sample and return its entry for the shard index."""
    entry = {}
    # One call per member: in a single call webdataset would sort `json` before `png` and `webp`.
    if sample.image is not None:
        offset = _write_member(tar, sample.key, _image_suffix(sample.image), sample.image)
        entry = {"image_offset": offset, "image_size": len(sample.image)}
    text = json.dumps(
        {"id": sample.key, **sample.content}, ensure_ascii=False, separators=(",", ":")
    ).encode("utf-8")
    offset = _write_member(tar, sample.key, "json", text)
    return {**entry, "json_offset": offset, "json_size": len(text)}


def _write_member(tar: TarWriter, key: str, suffix: str, content: bytes) -> int:
    """Append a member and return the offset of its content in the shard."""
    tar.write({"__key__": key, suffix: content})
    padded_size = len(content) + -len(content) % tarfile.BLOCKSIZE
    return int(tar.tarstream.offset) - padded_size


class _HashingFile(io.RawIOBase):
    """A write-only file that also computes the sha256 and the size of what it receives."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.num_bytes = 0
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        """Return True: a buffered writer asks for it."""
        return True

    def write(self, content: Any) -> int:
        """Write and hash a block."""
        self.digest.update(content)
        num_written = self._file.write(content)
        self.num_bytes += num_written
        return num_written


def _image_suffix(image: bytes) -> str:
    """Return the file suffix for an image from its magic bytes.

    Our reader decodes by content; other programs go by the suffix.
    """
    return next((name for magic, name in _SUFFIXES.items() if image.startswith(magic)), "webp")

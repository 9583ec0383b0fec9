"""Manifests of sources: loading, validation, verification against the shards, and saving.

Several sources may list the same shards with a different `record`, so an image is stored once for
all its languages.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from core import config
from core.errors import DataError, unknown_name
from core.file_names import FILE_NAME, FILE_NAME_ADVICE, LANGUAGE_CODE
from core.io.files import atomic_write_text, safe_join, sha256_file
from core.io.reading import parse_json
from datamodules.shards import reader as shards
from datamodules.shards.index import ShardIndex
from datamodules.shards.modality import Modality as Modality
from datamodules.shards.reader import CachedFile, ShardReader
from datamodules.shards.tar_scan import ScanRules, scan_tar
from datamodules.storage.cache import ShardCache
from datamodules.storage.download import RemoteFile
from datamodules.storage.remote import is_url, local_file

FORMAT = 1
SUFFIX = ".manifest.json"
INDEX_SUFFIX = ".index"
"""Suffix of the folder beside a manifest in which `data_prep.index` writes the indexes."""

_MAX_CONCURRENT_FETCHES = 16

_Kind = TypeVar("_Kind")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IndexEntry:
    """An index at a location other than the default one beside its shard."""

    path: str
    """Path relative to the manifest's folder, or a URL."""
    sha256: str
    num_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """A shard in the list of a manifest."""

    path: str
    """Path relative to the manifest's folder, or a URL of any store that fsspec supports."""
    sha256: str
    num_bytes: int
    num_samples: int
    index: IndexEntry | None = None
    """None for `{shard}.index.npy` beside the shard; required if the shard is a URL."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Description of one source: a dataset in one language and one modality."""

    name: str
    language: str
    modality: Modality
    record: str
    """Location of the record of a sample (see `records`): a dotted path inside its JSON, "" for the
    JSON itself, or `.txt` for the member with that extension."""
    licence: str
    provenance: Any
    """Origin of the data: a sentence or a JSON tree."""
    shards: tuple[ShardEntry, ...]
    statistics: dict[str, Any] = dataclasses.field(default_factory=dict)
    num_rounds: int = 1
    """Number of equal rounds of which the samples consist, one after the other. A mixture gives the
    target language to whole rounds first, so that a share keeps what is balanced in each round."""

    @property
    def num_samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.num_samples for shard in self.shards)

    def fingerprint(self) -> str:
        """Return a content address of the samples; it ignores paths and statistics."""
        content = [
            (shard.sha256, shard.num_samples, *([shard.index.sha256] if shard.index else []))
            for shard in self.shards
        ]
        names = [FORMAT, self.name, self.language, self.modality, self.record]
        rounds = [self.num_rounds] if self.num_rounds > 1 else []
        return config.fingerprint([names, content, *rounds])


def load_manifest(path: Path) -> Manifest:
    """Load and validate a manifest.

    Raises:
        DataError: If the file does not exist or is not JSON, or if a field is missing or invalid.
    """
    if not path.is_file():
        raise DataError(f"manifest {path} does not exist; prepare the data or correct the path")
    try:
        raw = parse_json(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"manifest {path} is not JSON: {error}; prepare the data again") from error
    if not isinstance(raw, dict) or raw.get("format") is True or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise DataError(
            f"manifest {path} has format {found!r}, expected {FORMAT}; prepare the data again"
        )
    entries = _typed_field(raw, "shards", list, path)
    if not entries:
        raise DataError(f"manifest {path} lists no shards; prepare the data again")
    modality = _typed_field(raw, "modality", str, path)
    if modality not in list(Modality):
        raise DataError(f"manifest {path}: {unknown_name('modality', modality, list(Modality))}")
    parsed = tuple(_parse_shard_entry(entry, path) for entry in entries)
    for key in ("path", "sha256"):
        values = Counter(getattr(entry, key) for entry in parsed)
        if repeated := [value for value, count in values.items() if count > 1]:
            raise DataError(
                f"manifest {path}: two shards have the {key} '{repeated[0]}'; remove one, or every "
                "sample would be used twice"
            )
    name, language = (_typed_field(raw, field, str, path) for field in ("name", "language"))
    if not FILE_NAME.fullmatch(name):
        raise DataError(f"manifest {path}: name {name!r}: {FILE_NAME_ADVICE}")
    codes = language.split(",")
    if not all(map(LANGUAGE_CODE.fullmatch, codes)) or len(set(codes)) < len(codes):
        raise DataError(
            f"manifest {path}: language {language!r}, expected different codes such as en,eu"
        )
    manifest = Manifest(
        name=name,
        language=language,
        modality=Modality(modality),
        record=_typed_field(raw, "record", str, path),
        licence=_typed_field(raw, "licence", str, path),
        provenance=raw.get("provenance"),
        shards=parsed,
        statistics=_typed_field(raw, "statistics", dict, path) if "statistics" in raw else {},
        num_rounds=_typed_field(raw, "num_rounds", int, path) if "num_rounds" in raw else 1,
    )
    _check_rounds(manifest, path)
    return manifest


def _check_rounds(manifest: Manifest, path: Path) -> None:
    if manifest.num_rounds < 1 or manifest.num_samples % manifest.num_rounds:
        raise DataError(
            f"manifest {path} has num_rounds={manifest.num_rounds}, which does not divide its "
            f"{manifest.num_samples} samples; prepare the data again"
        )


def save_manifest(path: Path, manifest: Manifest) -> None:
    """Save a manifest so that `load_manifest` returns an equal one."""
    content = {"format": FORMAT, **config.to_plain(manifest)}
    if manifest.num_rounds == 1:
        del content["num_rounds"]
    for entry in content["shards"]:
        if entry["index"] is None:
            del entry["index"]
    atomic_write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def shard_path(manifest_path: Path, entry: ShardEntry) -> Path:
    """Return the path of a local shard of the manifest.

    Raises:
        DataError: If the path leaves the manifest's folder, or if the shard is remote.
    """
    path = _local_path(manifest_path, entry.path)
    if path is None:
        raise DataError(f"shard {entry.path} of {manifest_path.name} is remote; use open_shard")
    return path


def open_shard(
    manifest_path: Path, entry: ShardEntry, cache: ShardCache | None = None
) -> ShardReader:
    """Return a reader of a local or remote shard; nothing is fetched before the first read.

    Raises:
        DataError: If a path leaves the manifest's folder, or if a remote shard has no index.
    """
    tar, index = _shard_files(manifest_path, entry, cache or ShardCache())
    return ShardReader(tar, index, num_samples=entry.num_samples)


def remote_file(entry: ShardEntry | IndexEntry) -> RemoteFile | None:
    """Return the description of a remote file for the cache; None if the file is local."""
    if not is_url(entry.path) or local_file(entry.path) is not None:
        return None
    return RemoteFile(url=entry.path, sha256=entry.sha256, num_bytes=entry.num_bytes)


def verify(path: Path, *, deep: bool = False, cache: ShardCache | None = None) -> Manifest:
    """Verify that the shards and indexes of a manifest exist and match it.

    Remote indexes are fetched. Remote shards are not, unless `deep` is set, because their checksums
    are verified whenever they are fetched.

    Args:
        path: Path of the manifest.
        deep: Also read every byte, and verify checksums and the indexes against the tars.
        cache: Cache of remote files; None for the default cache.

    Raises:
        DataError: If a file is missing or does not match the manifest.
        StorageError: If a remote file can't be fetched.
    """
    manifest, cache = load_manifest(path), cache or ShardCache()
    _fetch_indexes(manifest.shards, cache)
    for entry in manifest.shards:
        shard = _local_path(path, entry.path)
        if shard is not None:
            _verify_file(shard, entry, path)
        reader = ShardReader(*_shard_files(path, entry, cache))
        num_samples = len(reader.index)
        if num_samples != entry.num_samples:
            raise DataError(
                f"index of shard {reader.name} has {num_samples} samples, {path.name} lists "
                f"{entry.num_samples}; rebuild the index"
            )
        if deep:
            _verify_content(reader, entry, manifest)
        reader.close()
    return manifest


def _shard_files(
    manifest_path: Path, entry: ShardEntry, cache: ShardCache
) -> tuple[Path | CachedFile, Path | CachedFile | None]:
    """Return the files that a shard and its index are read from."""
    index = None if entry.index is None else _resolve_file(manifest_path, entry.index, cache)
    return _resolve_file(manifest_path, entry, cache), index


def _resolve_file(
    manifest_path: Path, entry: ShardEntry | IndexEntry, cache: ShardCache
) -> Path | CachedFile:
    if (remote := remote_file(entry)) is not None:
        return CachedFile(file=remote, cache=cache)
    path = _local_path(manifest_path, entry.path)
    if path is None:
        raise TypeError(f"{entry.path} is neither local nor remote")
    return path


def _local_path(manifest_path: Path, path: str) -> Path | None:
    if (file := local_file(path)) is not None:
        return file
    return None if is_url(path) else safe_join(manifest_path.parent, path)


def _fetch_indexes(entries: Sequence[ShardEntry], cache: ShardCache) -> None:
    """Fetch missing remote indexes concurrently, because latency dominates for small files."""
    indexes = [entry.index for entry in entries if entry.index is not None]
    remote = [file for index in indexes if (file := remote_file(index)) is not None]
    missing = [file for file in remote if not cache.path(file).exists()]
    if missing:
        with ThreadPoolExecutor(_MAX_CONCURRENT_FETCHES) as pool:
            list(pool.map(cache.fetch, missing))


def _verify_file(shard: Path, entry: ShardEntry, path: Path) -> None:
    if not shard.is_file():
        raise DataError(f"shard {shard} of {path.name} is missing; fetch or prepare it again")
    if (size := shard.stat().st_size) != entry.num_bytes:
        raise DataError(
            f"shard {shard} has {size} bytes, {path.name} lists {entry.num_bytes}; it was "
            "truncated or replaced: fetch or prepare it again"
        )


def _verify_content(reader: ShardReader, entry: ShardEntry, manifest: Manifest) -> None:
    """Verify the checksum of a shard, and that its index describes it."""
    has_image = manifest.modality is not Modality.TEXT
    with reader.whole() as shard:
        if (found := sha256_file(shard)) != entry.sha256:
            raise DataError(
                f"shard {reader.name} has sha256 {found}, the manifest lists {entry.sha256}; it "
                "is damaged: fetch or prepare it again"
            )
        if reader.index.is_compact:
            rules = ScanRules(
                record=manifest.record, language=manifest.language, has_image=has_image
            )
            with shard.open("rb") as file:
                expected = scan_tar(file, reader.name, rules).index.to_bytes()
        else:
            expected = ShardIndex(shards.build_index(shard), None, None).to_bytes()
    if expected != reader.index.to_bytes():
        raise DataError(f"index of shard {reader.name} does not describe it; rebuild the index")


def _parse_shard_entry(raw: Any, path: Path) -> ShardEntry:
    if not isinstance(raw, dict):
        raise DataError(f"manifest {path}: a shard entry is {raw!r}, expected an object")
    entry = ShardEntry(
        path=_typed_field(raw, "path", str, path),
        sha256=_typed_field(raw, "sha256", str, path),
        num_bytes=_typed_field(raw, "num_bytes", int, path),
        num_samples=_typed_field(raw, "num_samples", int, path),
        index=None if raw.get("index") is None else _parse_index_entry(raw["index"], path),
    )
    if entry.index is None and remote_file(entry) is not None:
        raise DataError(
            f"manifest {path}: shard '{entry.path}' is remote and has no 'index'; create "
            "the manifest with `python -m data_prep.index`"
        )
    if entry.num_samples < 1:
        raise DataError(
            f"manifest {path}: shard '{entry.path}' has num_samples={entry.num_samples}, expected "
            "at least 1; remove empty shards"
        )
    return entry


def _parse_index_entry(raw: Any, path: Path) -> IndexEntry:
    if not isinstance(raw, dict):
        raise DataError(f"manifest {path}: a shard's index is {raw!r}, expected an object")
    return IndexEntry(
        path=_typed_field(raw, "path", str, path),
        sha256=_typed_field(raw, "sha256", str, path),
        num_bytes=_typed_field(raw, "num_bytes", int, path),
    )


def _typed_field(raw: dict[str, Any], name: str, kind: type[_Kind], path: Path) -> _Kind:
    value = raw.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        found = repr(value) if name in raw else "missing"
        raise DataError(
            f"manifest {path}: field '{name}' is {found}, expected {kind.__name__}; prepare the "
            "data again"
        )
    return value

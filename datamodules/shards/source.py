"""Sources as sequences of samples with random access and validated records.

Separate from `reader`, which handles bytes and offsets but not conversations.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from core.errors import DataError
from core.retry import call_with_retries
from core.samples import Sample
from datamodules.shards import manifest as manifests
from datamodules.shards.manifest import Modality
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import parse_record
from datamodules.storage.cache import ShardCache
from datamodules.storage.remote import StorageError

_RETRY_DELAYS_S = (0.1, 0.5, 2.0)
_MAX_OPEN_SHARDS = 64
"""Maximum number of open shards; each uses two file descriptors, which are limited."""


class Source:
    """The samples of a manifest, in the order of its shards."""

    def __init__(self, manifest_path: Path, cache: ShardCache | None = None) -> None:
        self.path = manifest_path
        self.cache = cache or ShardCache()
        self.manifest = manifests.verify(manifest_path, cache=self.cache)
        sizes = [entry.num_samples for entry in self.manifest.shards]
        self.shard_sizes = np.asarray(sizes, dtype=np.int64)
        self.is_remote = any(manifests.remote_file(entry) for entry in self.manifest.shards)
        """Whether any shard is read through the shard cache."""
        self._starts = np.concatenate([[0], np.cumsum(self.shard_sizes)])
        self._first_samples = self._starts.tolist()
        self._readers: dict[int, ShardReader] = {}
        self._open: OrderedDict[int, None] = OrderedDict()
        self.parallel_sources: set[Source] = set()
        """Sources that were found to have the same samples (`check_parallel`)."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self._starts[-1])

    @property
    def name(self) -> str:
        """Name of the source in its manifest."""
        return self.manifest.name

    @property
    def language(self) -> str:
        """Language of the records."""
        return self.manifest.language

    @property
    def num_rounds(self) -> int:
        """Number of equal rounds of which the samples consist."""
        return self.manifest.num_rounds

    @property
    def has_images(self) -> bool:
        """Return whether every sample has an image."""
        return self.manifest.modality is Modality.IMAGE_TEXT

    def keys(self) -> np.ndarray:
        """Return all keys (bytes), in order."""
        return np.concatenate([self._reader(s).index.keys() for s in range(len(self.shard_sizes))])

    def has_keys_of(self, other: "Source") -> bool:
        """Return whether two sources have the same keys in the same order."""
        if not np.array_equal(self.shard_sizes, other.shard_sizes):
            return np.array_equal(self.keys(), other.keys())
        shards = range(len(self.shard_sizes))
        return all(self._reader(s).index.has_keys_of(other._reader(s).index) for s in shards)

    def key(self, i: int) -> str:
        """Return the key of sample i."""
        reader, row = self._locate(i)
        return reader.key(row)

    def describe(self, i: int) -> str:
        """Return the shard and the key of sample i, for messages; two shards may have one key."""
        reader, row = self._locate(i)
        return _describe(reader, row)

    def image_sizes(self) -> np.ndarray:
        """Return the width and height of every image, (n, 2) uint16; 0 if not recorded."""
        shards = range(len(self.shard_sizes))
        return np.concatenate([self._reader(s).index.image_sizes() for s in shards])

    def samples_of(self, shard: int) -> range:
        """Return the indices of the samples in a shard."""
        return range(self._first_samples[shard], self._first_samples[shard + 1])

    def shards_of(self, samples: np.ndarray) -> np.ndarray:
        """Return the shard of each sample."""
        return np.searchsorted(self._starts, samples, side="right") - 1

    def prefetch(self, shards: Iterable[int]) -> None:
        """Fetch remote shards in the background, in this order (see `ShardCache.prefetch`)."""
        entries = self.manifest.shards
        files = [manifests.remote_file(entries[shard]) for shard in dict.fromkeys(shards)]
        self.cache.prefetch([file for file in files if file is not None])

    def announce(self, i: int) -> None:
        """Start kernel read-ahead for sample i, which will be read soon."""
        reader, row = self._locate(i)
        reader.announce(row, with_image=self.has_images)

    def read(self, i: int, *, with_image: bool = True) -> Sample:
        """Read sample i; with `with_image=False`, its image is not read and returned as b"".

        Raises:
            DataError: If the record can't be used; the message names the shard and the key.
            OSError: If the file can't be read after all retries.
        """
        reader, row = self._locate(i)
        with_image = with_image and self.has_images
        content, image = _read_with_retries(reader, row, with_image=with_image)
        key, where = reader.key(row), _describe(reader, row)
        raw, turns = parse_record(content, self.manifest.record, where, has_image=self.has_images)
        return Sample(
            key=key,
            source=self.name,
            language=self.language,
            parallel_id=str(raw.get("parallel_id", key)),
            turns=turns,
            image=self._checked_image(image, where),
            image_size=reader.index.image_size(row) if self.has_images else None,
        )

    def _locate(self, i: int) -> tuple[ShardReader, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} outside source '{self.name}' of {len(self)}")
        shard = bisect_right(self._first_samples, i) - 1
        return self._reader(shard), i - self._first_samples[shard]

    def _reader(self, shard: int) -> ShardReader:
        """Return the reader of a shard; the least recently used readers are closed."""
        reader = self._readers.get(shard)
        if reader is None:
            entry = self.manifest.shards[shard]
            reader = self._readers[shard] = manifests.open_shard(self.path, entry, self.cache)
        if shard not in self._open and len(self._open) >= _MAX_OPEN_SHARDS:
            self._readers[self._open.popitem(last=False)[0]].close()
        self._open[shard] = None
        self._open.move_to_end(shard)
        return reader

    def _checked_image(self, image: bytes | None, where: str) -> bytes | None:
        if not self.has_images:
            return None
        if image is None:
            raise DataError(f"{where}: no image, but source '{self.name}' is image-text")
        return image


def iterate_images(manifest_path: Path) -> Iterator[bytes]:
    """Yield the encoded images of all shards, including those of benchmarks.

    Records are not parsed, so this also works for sources that hold no conversations.
    """
    for _, image in iterate_named_images(manifest_path):
        yield image


def iterate_named_images(manifest_path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each image with the name of its shard and sample, for error messages."""
    for entry in manifests.load_manifest(manifest_path).shards:
        reader = manifests.open_shard(manifest_path, entry)
        try:
            for row in range(len(reader)):
                image = reader.read(row)[1]
                if image is not None:
                    yield _describe(reader, row), image
        finally:
            reader.close()


def check_parallel(base: Source, target: Source) -> None:
    """Check that two sources have the same samples in the same order, once for each pair.

    Raises:
        DataError: If they differ; the message gives the first difference.
    """
    if _shard_checksums(base) == _shard_checksums(target):
        return  # same shards and indexes, so there is no need to compare keys
    if target in base.parallel_sources:
        return
    if base.has_keys_of(target):
        base.parallel_sources.add(target)
        return
    num_common = min(len(base), len(target))
    different = np.flatnonzero(base.keys()[:num_common] != target.keys()[:num_common])
    i = int(different[0]) if different.size else num_common
    found = " and ".join(f"'{s.key(i)}'" if i < len(s) else "missing" for s in (base, target))
    raise DataError(
        f"sources '{base.name}' and '{target.name}' are not parallel: they have {len(base)} and "
        f"{len(target)} samples, and sample {i} is {found}; index both from the same shards, with "
        "records that name the language (--record caption.eu, caption_eu or .eu.txt), which keep a "
        "sample whose text is unusable in one language, or remove the sample from the shards"
    )


def _describe(reader: ShardReader, row: int) -> str:
    return f"shard {reader.name}, sample '{reader.key(row)}'"


def _shard_checksums(source: Source) -> list[tuple[str, int, str]]:
    entries = source.manifest.shards
    return [(e.sha256, e.num_samples, e.index.sha256 if e.index else "") for e in entries]


def _read_with_retries(
    reader: ShardReader, row: int, *, with_image: bool
) -> tuple[bytes, bytes | None]:
    """Retry I/O errors, because a flaky file system must not change the stream."""
    return call_with_retries(
        lambda: reader.read(row, with_image=with_image),
        delays_s=_RETRY_DELAYS_S,
        # The shard cache has already retried before it raises a StorageError.
        is_transient=lambda error: (
            isinstance(error, OSError) and not isinstance(error, StorageError)
        ),
        on_retry=lambda _error, _delay_s: reader.close(),
    )

"""One source as a sequence of samples: any index is one seek, and every record is checked.

Kept apart from `shards`, which knows bytes and offsets but nothing of conversations.
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
_OPEN_SHARDS = 64
"""Shards whose files stay open: each takes two descriptors, of which a process has few."""


class Source:
    """The samples of one manifest, in the order of its shards."""

    def __init__(self, manifest_path: Path, cache: ShardCache | None = None) -> None:
        self.path = manifest_path
        self.cache = cache or ShardCache()
        self.manifest = manifests.verify(manifest_path, cache=self.cache)
        sizes = [entry.num_samples for entry in self.manifest.shards]
        self.shard_sizes = np.asarray(sizes, dtype=np.int64)
        self.is_remote = any(manifests.remote_file(entry) for entry in self.manifest.shards)
        """Whether any shard is read through the cache."""
        self._starts = np.concatenate([[0], np.cumsum(self.shard_sizes)])
        self._first_samples = self._starts.tolist()
        self._readers: dict[int, ShardReader] = {}
        self._open: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        """Number of samples."""
        return int(self._starts[-1])

    @property
    def name(self) -> str:
        """The manifest's name for this source."""
        return self.manifest.name

    @property
    def language(self) -> str:
        """Language of its records."""
        return self.manifest.language

    @property
    def has_images(self) -> bool:
        """Whether every sample has an image."""
        return self.manifest.modality is Modality.IMAGE_TEXT

    def keys(self) -> np.ndarray:
        """All keys (bytes), in order."""
        return np.concatenate([self._reader(s).index.keys() for s in range(len(self.shard_sizes))])

    def key(self, i: int) -> str:
        """Key of sample i."""
        reader, row = self._place(i)
        return reader.key(row)

    def image_sizes(self) -> np.ndarray:
        """Width and height of every image, (n, 2) uint16; 0 where the index does not say."""
        shards = range(len(self.shard_sizes))
        return np.concatenate([self._reader(s).index.image_sizes() for s in shards])

    def samples_of(self, shard: int) -> range:
        """The samples that lie in a shard."""
        return range(self._first_samples[shard], self._first_samples[shard + 1])

    def shards_of(self, samples: np.ndarray) -> np.ndarray:
        """The shard that each of these samples lies in."""
        return np.searchsorted(self._starts, samples, side="right") - 1

    def prefetch(self, shards: Iterable[int]) -> None:
        """Fetch shards in the background, in this order, if they are remote (`ShardCache`)."""
        entries = self.manifest.shards
        files = [manifests.remote_file(entries[shard]) for shard in dict.fromkeys(shards)]
        self.cache.prefetch([file for file in files if file is not None])

    def announce(self, i: int) -> None:
        """Say that sample i will be read soon: the system may fetch it meanwhile."""
        reader, row = self._place(i)
        reader.announce(row, with_image=self.has_images)

    def read(self, i: int, *, with_image: bool = True) -> Sample:
        """Sample i; `with_image=False` gives b"" in the place of its image, unread.

        Raises:
            DataError: a record that can't be used, named by shard and key.
            OSError: the file could not be read, several times over.
        """
        reader, row = self._place(i)
        with_image = with_image and self.has_images
        content, image = _read_patiently(reader, row, with_image=with_image)
        key = reader.key(row)
        where = f"shard {reader.name}, sample '{key}'"
        raw, turns = parse_record(content, self.manifest.record, where, has_image=self.has_images)
        return Sample(
            key=key,
            source=self.name,
            language=self.language,
            parallel_id=str(raw.get("parallel_id", key)),
            turns=turns,
            image=self._image(image, where),
        )

    def _place(self, i: int) -> tuple[ShardReader, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} outside source '{self.name}' of {len(self)}")
        shard = bisect_right(self._first_samples, i) - 1
        return self._reader(shard), i - self._first_samples[shard]

    def _reader(self, shard: int) -> ShardReader:
        """The reader of a shard; those not used for longest give their files back."""
        reader = self._readers.get(shard)
        if reader is None:
            entry = self.manifest.shards[shard]
            reader = self._readers[shard] = manifests.open_shard(self.path, entry, self.cache)
        if shard not in self._open and len(self._open) >= _OPEN_SHARDS:
            self._readers[self._open.popitem(last=False)[0]].close()
        self._open[shard] = None
        self._open.move_to_end(shard)
        return reader

    def _image(self, image: bytes | None, where: str) -> bytes | None:
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
                    yield f"shard {reader.name}, sample '{reader.key(row)}'", image
        finally:
            reader.close()


def check_parallel(base: Source, target: Source) -> None:
    """Check that two sources list the same samples in the same order.

    Raises:
        DataError: with the first difference.
    """
    pair = f"sources '{base.name}' and '{target.name}' are not parallel"
    fix = "prepare both from the same shards"
    if len(base) != len(target):
        raise DataError(f"{pair}: {len(base)} and {len(target)} samples; {fix}")
    if _contents(base) == _contents(target):
        return  # the same shards by the same indexes: no need to read them
    different = np.flatnonzero(base.keys() != target.keys())
    if different.size:
        i = int(different[0])
        raise DataError(f"{pair}: sample {i} is '{base.key(i)}' and '{target.key(i)}'; {fix}")


def _contents(source: Source) -> list[tuple[str, int, str]]:
    entries = source.manifest.shards
    return [(e.sha256, e.num_samples, e.index.sha256 if e.index else "") for e in entries]


def _read_patiently(
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

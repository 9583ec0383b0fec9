"""Detection of benchmark images in training data.

Images are compared by the bytes of their files, or by their decoded, reduced content, which also
finds an image that was stored in another format or size.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from core.errors import DataError
from core.io.images import decode_image
from datamodules.shards.manifest import load_manifest, open_shard

_SIDE, _LEVELS = 16, 16
"""Reduced content of an image: 16 x 16 pixels with 16 levels per channel."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Contamination:
    """Benchmark images that also occur in training data."""

    num_benchmark: int
    """Number of distinct images of the benchmark."""
    num_training: int
    """Number of distinct images of the training sources."""
    shared: tuple[str, ...]
    """Keys of the benchmark images that also occur in the training sources."""
    by_pixels: bool


def check_images(
    benchmark: Path, training: Sequence[Path], *, by_pixels: bool = False
) -> Contamination:
    """Compare the images of a benchmark with those of training sources.

    Sources of several languages may list the same shards; every shard is read once.

    Args:
        benchmark: Manifest of the benchmark.
        training: Manifests of the training sources.
        by_pixels: Compare the reduced content instead of the bytes.

    Raises:
        DataError: If a manifest or shard does not exist.
    """
    own: dict[str, str] = {}
    for key, image in _read_images([benchmark]):
        own.setdefault(_fingerprint(image, by_pixels=by_pixels), key)
    known = {_fingerprint(image, by_pixels=by_pixels) for _, image in _read_images(training)}
    shared = tuple(sorted(key for digest, key in own.items() if digest in known))
    return Contamination(
        num_benchmark=len(own), num_training=len(known), shared=shared, by_pixels=by_pixels
    )


def _read_images(manifests: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    seen: set[tuple[Path, str]] = set()
    for path in manifests:
        for entry in load_manifest(path).shards:
            shard = (path.parent, entry.path)
            if shard in seen:
                continue
            seen.add(shard)
            reader = open_shard(path, entry)
            for row in range(len(reader)):
                _, image = reader.read(row)
                if image is not None:
                    yield reader.key(row), image
            reader.close()


def _fingerprint(image: bytes, *, by_pixels: bool) -> str:
    if not by_pixels:
        return hashlib.sha256(image).hexdigest()
    try:
        decoded = decode_image(image)
    except DataError:
        return hashlib.sha256(image).hexdigest()
    small = decoded.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    reduced = bytes(value // (256 // _LEVELS) for value in small.tobytes())
    return hashlib.sha256(reduced).hexdigest()

"""Detection of benchmark images in training data.

Images are compared by the bytes of their files, or by their decoded, reduced content, which also
finds an image that was stored in another format or size.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from core.errors import DataError
from core.io.images import decode_image
from core.rng import named_rng
from datamodules.shards.manifest import ShardEntry, load_manifest, open_shard

_SIDE, _COARSE = 16, 4
"""Sides of the reduced content of an image, and of the coarse content that is compared first."""
_MAX_DIFFERENCE, _MAX_MEAN_DIFFERENCE = 20, 4.0
"""Levels (of 255) by which any value, and the mean, of two copies of an image may differ. Another
compression moves a value by a few levels; another drawing moves some by far more."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Contamination:
    """Benchmark images that also occur in training data."""

    num_benchmark: int
    """Number of distinct images of the benchmarks."""
    num_training: int
    """Number of distinct images of the training sources that were compared."""
    shared: tuple[str, ...]
    """Keys of the benchmark images that also occur in the training sources."""
    by_pixels: bool
    is_sample: bool
    """Whether only a random sample of the training samples was compared."""


def check_images(
    benchmarks: Sequence[Path],
    training: Sequence[Path],
    *,
    by_pixels: bool = False,
    max_training: int | None = None,
) -> Contamination:
    """Compare the images of benchmarks with those of training sources.

    Sources of several languages may list the same shards; every shard is read once.

    Args:
        benchmarks: Manifests of the benchmarks.
        training: Manifests of the training sources.
        by_pixels: Compare the reduced content instead of the bytes.
        max_training: Number of training samples above which a random sample of about this size is
            compared; None to compare all.

    Raises:
        DataError: If a manifest or shard does not exist.
    """
    total = sum(entry.num_samples for _, entry in distinct_shards(training))
    share = 1.0 if max_training is None or total <= max_training else max_training / total
    own: dict[str, tuple[str, bytes]] = {}
    for key, image in _read_images(benchmarks):
        own.setdefault(_digest(image), (key, image))
    known: dict[str, bytes] = {}
    for _, image in _read_images(training, share=share):
        # Only the reduced content is kept, so that memory does not grow with the image files.
        digest = _digest(image)
        if digest not in known:
            known[digest] = _reduce(image) if by_pixels else b""
    shared = {key for digest, (key, _) in own.items() if digest in known}
    if by_pixels:
        shared |= _find_copies(list(own.values()), [small for small in known.values() if small])
    return Contamination(
        num_benchmark=len(own),
        num_training=len(known),
        shared=tuple(sorted(shared)),
        by_pixels=by_pixels,
        is_sample=share < 1,
    )


def distinct_shards(manifests: Sequence[Path]) -> Iterator[tuple[Path, ShardEntry]]:
    """Yield every shard of some manifests once, with the manifest that lists it first."""
    seen: set[tuple[Path, str]] = set()
    for path in manifests:
        for entry in load_manifest(path).shards:
            if (path.parent, entry.path) not in seen:
                seen.add((path.parent, entry.path))
                yield path, entry


def _read_images(manifests: Sequence[Path], *, share: float = 1.0) -> Iterator[tuple[str, bytes]]:
    for path, entry in distinct_shards(manifests):
        rng = named_rng(0, "image overlap", entry.path)
        reader = open_shard(path, entry)
        for row in range(len(reader)):
            if share < 1 and rng.random() >= share:
                continue
            _, image = reader.read(row)
            if image is not None:
                yield reader.key(row), image
        reader.close()


def _find_copies(own: Sequence[tuple[str, bytes]], known: Sequence[bytes]) -> set[str]:
    """Return the keys of the images whose reduced content is nearly that of a known image."""
    if not known:
        return set()
    shape = (-1, _SIDE, _SIDE, 3)
    known_NHWC = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(shape).astype(np.int16)
    coarse_NHWC = _coarsen(known_NHWC)
    found = set()
    for key, image in own:
        small = _reduce(image)
        if not small:
            continue
        own_NHWC = np.frombuffer(small, dtype=np.uint8).reshape(shape).astype(np.int16)
        coarse_distance_N = np.abs(coarse_NHWC - _coarsen(own_NHWC)).max(axis=(1, 2, 3))
        near_NHWC = known_NHWC[coarse_distance_N <= _MAX_DIFFERENCE]
        distance_NHWC = np.abs(near_NHWC - own_NHWC)
        is_copy_N = (distance_NHWC.max(axis=(1, 2, 3), initial=0) <= _MAX_DIFFERENCE) & (
            distance_NHWC.mean(axis=(1, 2, 3)) <= _MAX_MEAN_DIFFERENCE
        )
        if is_copy_N.any():
            found.add(key)
    return found


def _coarsen(images_NHWC: np.ndarray) -> np.ndarray:
    block = _SIDE // _COARSE
    blocks = images_NHWC.reshape(-1, _COARSE, block, _COARSE, block, 3)
    return np.asarray(blocks.mean(axis=(2, 4)))


def _digest(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()


def _reduce(image: bytes) -> bytes:
    """Return the reduced content of an image; empty if it can't be decoded."""
    try:
        decoded = decode_image(image)
    except DataError:
        return b""
    return decoded.resize((_SIDE, _SIDE), Image.Resampling.BOX).tobytes()

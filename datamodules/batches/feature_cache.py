"""Cache of vision tower features, computed once per image and looked up by the image's bytes.

Each tower has a folder with `features.npy` (float32, memory-mapped) and `keys.npy` (SHA-256 of
each encoded image). The features themselves are computed by the caller.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from core.errors import UNDECODABLE, DataError
from core.io.files import atomic_file
from core.io.reading import reading

Encoder = Callable[[list[bytes]], np.ndarray]
"""Maps encoded images to float32 features of shape (len(images), P, E)."""

BROKEN_IMAGE = float("nan")
"""Value of all features of an image that could not be decoded."""
_KEY_BYTES = 32
_FEATURES_NDIM, _KEYS_NDIM = len("NPE"), len("NK")
_PARTS = "parts"


class FeatureCache:
    """Read-only lookup of features by image."""

    def __init__(self, folder: Path, features_NPE: np.ndarray, keys: np.ndarray) -> None:
        self.folder = folder
        self._features_NPE = features_NPE
        self._row_of_key = {key.tobytes(): row for row, key in enumerate(keys)}

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the cache in a tower's folder (see `cache_folder`).

        Raises:
            DataError: If the cache does not exist or is damaged.
        """
        features, keys = _load_array(folder / "features.npy"), _load_array(folder / "keys.npy")
        if features.ndim != _FEATURES_NDIM or keys.ndim != _KEYS_NDIM or len(features) < len(keys):
            raise DataError(
                f"feature cache {folder} is damaged (features {features.shape}, keys "
                f"{keys.shape}); delete the folder and rebuild the cache"
            )
        return cls(folder, features, keys)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._row_of_key)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the folder only: a spawned worker maps the files itself."""
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the files in the unpickling process."""
        self.__dict__.update(FeatureCache.open(state["folder"]).__dict__)

    def __contains__(self, image: bytes) -> bool:
        """Return whether the cache has the features of an image."""
        return hashlib.sha256(image).digest() in self._row_of_key

    @property
    def num_image_tokens(self) -> int:
        """Number of visual tokens per image (P)."""
        return int(self._features_NPE.shape[1])

    @property
    def width(self) -> int:
        """Width of a feature (E)."""
        return int(self._features_NPE.shape[2])

    def get(self, image: bytes) -> np.ndarray:
        """Return the features (P, E) of an encoded image.

        Raises:
            DataError: If the image was missing or undecodable when the cache was built.
        """
        digest = hashlib.sha256(image).digest()
        row = self._row_of_key.get(digest)
        if row is None:
            raise DataError(
                f"image {digest.hex()[:16]} is not in feature cache {self.folder}; rebuild "
                "the cache with the images of this source",
                "image not in the feature cache",
            )
        features_PE = np.asarray(self._features_NPE[row])
        if np.isnan(features_PE[0, 0]):
            raise DataError(
                f"image {digest.hex()[:16]} can't be decoded (recorded in feature cache "
                f"{self.folder}); replace it in its shard",
                UNDECODABLE,
            )
        return features_PE


def cache_folder(root: Path, fingerprint: str) -> Path:
    """Return the cache folder of the tower with this fingerprint."""
    return root / fingerprint


def build_feature_cache(
    root: Path,
    fingerprint: str,
    images: Iterable[bytes],
    encode: Encoder,
    *,
    batch_size: int = 64,
    on_progress: Callable[[int], None] | None = None,
) -> FeatureCache:
    """Add the missing images and open the cache.

    Every batch is saved as a part, so an interrupted build resumes; duplicate images are encoded
    once.

    Args:
        root: Folder of all caches.
        fingerprint: Fingerprint of the tower, its weights and its image transform.
        images: Encoded images, in any order.
        encode: Computes the features of one batch.
        batch_size: Number of images per batch.
        on_progress: Called with the number of new images after every batch.

    Raises:
        DataError: If `encode` returns features of the wrong shape, or if there are no images.
    """
    folder = cache_folder(root, fingerprint)
    (parts := folder / _PARTS).mkdir(parents=True, exist_ok=True)
    batches = _batches_of_new_images(images, _known_keys(folder), batch_size)
    for number, batch in enumerate(batches, start=_next_part(parts)):
        features = np.asarray(encode([image for _, image in batch]), dtype=np.float32)
        if features.ndim != _FEATURES_NDIM or len(features) != len(batch):
            raise DataError(
                f"the tower returned features of shape {features.shape} for {len(batch)} images, "
                "expected (N, P, E)"
            )
        keys = np.frombuffer(b"".join(key for key, _ in batch), dtype=np.uint8)
        _save_part(parts / f"{number:08d}.npz", keys.reshape(-1, _KEY_BYTES), features)
        if on_progress is not None:
            on_progress(len(batch))
    _merge_parts(folder)
    return FeatureCache.open(folder)


def _batches_of_new_images(
    images: Iterable[bytes], known: set[bytes], batch_size: int
) -> Iterator[list[tuple[bytes, bytes]]]:
    batch: list[tuple[bytes, bytes]] = []
    for image in images:
        key = hashlib.sha256(image).digest()
        if key in known:
            continue
        known.add(key)
        batch.append((key, image))
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _known_keys(folder: Path) -> set[bytes]:
    arrays = [_load_array(folder / "keys.npy")] if (folder / "keys.npy").is_file() else []
    arrays += [_load_part(path)[0] for path in _part_files(folder / _PARTS)]
    return {key.tobytes() for keys in arrays for key in keys}


def _merge_parts(folder: Path) -> None:
    """Append the parts, features before keys: surplus features are harmless, surplus keys not."""
    part_files = _part_files(folder / _PARTS)
    arrays = [_load_part(path) for path in part_files]
    if (folder / "keys.npy").is_file():
        keys = _load_array(folder / "keys.npy")
        arrays.insert(0, (keys, _load_array(folder / "features.npy")[: len(keys)]))
    if not arrays:
        raise DataError(f"feature cache {folder}: no images to build it from")
    shapes = {features.shape[1:] for _, features in arrays}
    if len(shapes) > 1:
        raise DataError(
            f"feature cache {folder} holds features of shapes {sorted(shapes)}; delete the folder"
        )
    if part_files:
        _save_array(folder / "features.npy", [features for _, features in arrays])
        _save_array(folder / "keys.npy", [keys for keys, _ in arrays])
    for path in part_files:
        path.unlink()


def _part_files(parts: Path) -> list[Path]:
    return sorted(parts.glob("*.npz"))


def _next_part(parts: Path) -> int:
    files = _part_files(parts)
    return int(files[-1].stem) + 1 if files else 0


def _save_part(path: Path, keys: np.ndarray, features: np.ndarray) -> None:
    with atomic_file(path) as file:
        np.savez(file, keys=keys, features=features)


def _save_array(path: Path, pieces: list[np.ndarray]) -> None:
    """Concatenate arrays on disk, without holding the result in memory."""
    shape = (sum(len(piece) for piece in pieces), *pieces[0].shape[1:])
    with atomic_file(path) as file:
        header = {"descr": pieces[0].dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece).data)


def _load_array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"feature cache file {path} does not exist; build the cache first")
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"feature cache file {path} is damaged ({error}); delete it") from error
    return array


def _load_part(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with (
        reading(path, fix="delete it to encode its images again"),
        np.load(path, allow_pickle=False) as part,
    ):
        return part["keys"], part["features"]

"""Stage kind `features`: the outputs of the frozen vision tower, computed once per image."""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch

from callbacks.metrics_log import write_progress
from configuration.mixture import benchmark_manifests, image_manifests
from configuration.run_config import RunConfig
from core.errors import DataError, PreemptedError
from core.io.files import atomic_write_text
from core.process.log import get_logger
from datamodules.batches.feature_cache import BROKEN_IMAGE, FeatureCache, build_feature_cache
from datamodules.shards.manifest import Modality, load_manifest
from datamodules.shards.source import iterate_images, iterate_named_images
from evaluation.runner import blank_image
from models.towers.folding import fold_batch_norms
from models.towers.vision_tower import VisionTower, VisionTowerConfig, load_vision_tower
from pipeline.assemble import FEATURES_NAME
from pipeline.device import compute_device
from pipeline.stages.base import Stage, StageContext
from planner.estimator import Estimator, StageEstimate

_LOG = get_logger("features")
_BATCH_IMAGES = 64
_CPU_CHUNK_IMAGES = 2
"""Images encoded at once by a thread on a CPU: their feature maps stay in the cache of a core."""
_CONV_DIMS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeaturesStage(Stage):
    """Features of the frozen tower for every image of a grid."""

    kind: ClassVar[str] = "features"
    is_cache: ClassVar[bool] = True
    uses_all_cores: ClassVar[bool] = True
    """Images are independent of each other, so the number of threads changes no result."""

    tower: VisionTowerConfig
    sources: tuple[str, ...]
    """Manifest paths, sorted."""

    @classmethod
    def from_config(cls, config: RunConfig) -> Self | None:
        """Collect the image sources of both stages and of the benchmarks."""
        if not config.model.has_feature_cache:
            return None
        paths = {*image_manifests(config), *benchmark_manifests(config)}
        return cls(tower=config.model.vision, sources=tuple(sorted(paths)))

    @property
    def manifests(self) -> tuple[str, ...]:
        """Paths of the image sources."""
        return self.sources

    @property
    def weight_folders(self) -> tuple[str, ...]:
        """Folder of the tower."""
        return (self.tower.path,)

    def estimate(self, estimator: Estimator, *, has_tower: bool, count: int) -> StageEstimate:
        """Estimate one pass of the tower over every image."""
        del has_tower, count
        return estimator.features(self.tower, self.sources)

    def run(self, context: StageContext) -> None:
        """Encode every image."""
        tower = load_vision_tower(self.tower).eval()
        address = tower.fingerprint()  # of the weights on disk, before batch norms are folded
        fold_batch_norms(tower, torch.zeros(1, 3, tower.transform.size, tower.transform.size))
        for parameter in tower.parameters():  # `to(memory_format=...)`, but typed
            if parameter.ndim == _CONV_DIMS:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        device = compute_device(context.trainer.accelerator)
        tower.to(device)
        cache = build_feature_cache(
            context.folder.scratch,
            address,
            self._images(),
            _BatchEncoder(tower, device, context),
            batch_size=_BATCH_IMAGES,
            on_progress=_Progress(context.folder.path, self._count_images()),
        )
        for path in map(Path, self.sources):
            if load_manifest(path).modality is Modality.BENCHMARK:
                check_benchmark_images(path, cache)
        atomic_write_text(context.folder.scratch / FEATURES_NAME, cache.folder.name)

    def _images(self) -> Iterator[bytes]:
        yield blank_image()
        for path in self.sources:
            yield from iterate_images(Path(path))

    def _count_images(self) -> int:
        shards = [shard for path in self.sources for shard in load_manifest(Path(path)).shards]
        return sum({shard.sha256: shard.num_samples for shard in shards}.values())


def check_benchmark_images(manifest: Path, cache: FeatureCache) -> None:
    """Reject a benchmark with a broken image before anything is trained.

    Raises:
        DataError: If an image can't be decoded; the message names shard and key.
    """
    for location, image in iterate_named_images(manifest):
        try:
            cache.get(image)
        except DataError as error:
            raise DataError(f"benchmark {manifest.name}, {location}: {error}") from error


class _Progress:
    """Adds up encoded images and writes progress.json."""

    def __init__(self, folder: Path, total: int) -> None:
        self._folder, self._total, self._done = folder, total, 0

    def __call__(self, count: int) -> None:
        self._done += count
        write_progress(self._folder, step=self._done, total=self._total, metrics={})


class _BatchEncoder:
    """Encodes a batch of images on all threads."""

    def __init__(self, tower: VisionTower, device: torch.device, context: StageContext) -> None:
        # One image per thread, and one thread inside: small operations spend more time at
        # barriers than computing, and the features then don't depend on the number of cores.
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(num_threads)
        self._decode = partial(_decode, tower)
        self._encode = partial(_encode_chunk, tower, device)
        self._chunk = _CPU_CHUNK_IMAGES if device.type == "cpu" else _BATCH_IMAGES
        self._flag = context.flag

    def __call__(self, images: list[bytes]) -> np.ndarray:
        if self._flag.is_set:
            raise PreemptedError("stopped between two batches of images")
        pixels = list(self._pool.map(self._decode, images))
        chunks = [pixels[i : i + self._chunk] for i in range(0, len(images), self._chunk)]
        return np.concatenate(list(self._pool.map(self._encode, chunks)))


@torch.inference_mode()
def _encode_chunk(
    tower: VisionTower, device: torch.device, pixels: list[torch.Tensor | None]
) -> np.ndarray:
    """Return features (N, P, E); BROKEN_IMAGE where an image could not be decoded."""
    shape = (len(pixels), tower.num_image_tokens, tower.width)
    features_NPE = np.full(shape, BROKEN_IMAGE, dtype=np.float32)
    whole = [i for i, pixels_CHW in enumerate(pixels) if pixels_CHW is not None]
    if whole:
        pixels_NCHW = torch.stack([p for p in pixels if p is not None])
        layout = torch.channels_last  # convolutional trunks are a third faster this way on a CPU
        pixels_NCHW = pixels_NCHW.contiguous(memory_format=layout).to(device)
        features_NPE[whole] = tower(pixels_NCHW).float().cpu().numpy()
    return features_NPE


def _decode(tower: VisionTower, image: bytes) -> torch.Tensor | None:
    """Return the pixels of an image, or None if it is broken; every source has a budget."""
    try:
        return tower.transform(image)
    except DataError as error:
        _LOG.warning("an image is left out of the cache: %s", error)
        return None

"""Training views of the embedded tower: augmented images and 2x2 scenes, as trunk features.

The trunk is frozen, so every view passes through it once. Only the averages over the whole view and
over its four quadrants are stored, each with the index of its name.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from core.chat.tokens import IGNORE_INDEX
from core.rng import named_rng
from models.towers.vision_tower import pool_grids

GRIDS = (1, 2)
"""Whole image, then quadrants in reading order."""

NUM_CELLS = 5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ViewsConfig:
    """Number of views and strength of their augmentation."""

    views_per_image: int = 4
    """Augmented views of every training image."""
    num_scenes: int = 2500
    """Scenes composed of one to four training images."""
    scene_pixels: int = 128
    """Side of a composed scene before it is resized for the tower, like those of the dataset."""
    max_rotation_degrees: float = 12.0
    """Uniform rotation of a view or of a scene's object."""
    scale_range: tuple[float, float] = (0.7, 1.1)
    """Uniform scale of a view."""
    scene_scale_range: tuple[float, float] = (0.8, 1.15)
    """Uniform scale of an object, in quadrants."""
    max_shift: float = 0.12
    """Uniform shift, as a share of the image or quadrant."""
    colour_jitter: float = 0.15
    """Uniform gain of every colour channel around 1."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrunkViews:
    """Pooled trunk features of M views and the labels of their cells."""

    features_MPC: torch.Tensor
    """float16, (M, 5, trunk width)."""
    labels_MP: torch.Tensor
    """int64: index of a name; the index after the last name for an empty cell; IGNORE_INDEX for a
    cell without a well-defined name (quadrants of a single image)."""


def trunk_views(
    trunk: nn.Module,
    images_NCHW: torch.Tensor,
    name_ids: Sequence[int],
    config: ViewsConfig,
    *,
    seed: int,
) -> TrunkViews:
    """Compute the views of all images and of scenes composed of them.

    Args:
        trunk: Frozen timm trunk in evaluation mode.
        images_NCHW: RGB values in 0..1 on white, at the tower's size.
        name_ids: Index of each image's name.
        config: Number of views and strength of their augmentation.
        seed: Seed of the augmentation.
    """
    ids = np.asarray(name_ids, dtype=np.int64)
    nothing = int(ids.max()) + 1
    features, labels = [], []
    views = itertools.chain(  # lazily: the pixels of all views would not fit into memory
        _single_views(images_NCHW, ids, config, seed=seed),
        _scene_views(images_NCHW, ids, config, seed=seed, nothing=nothing),
    )
    for pixels_NCHW, labels_NP in views:
        features.append(trunk_features(trunk, pixels_NCHW))
        labels.append(labels_NP)
    return TrunkViews(features_MPC=torch.cat(features).half(), labels_MP=torch.cat(labels))


@torch.no_grad()
def trunk_features(
    trunk: nn.Module, pixels_NCHW: torch.Tensor, *, batch_size: int = 64
) -> torch.Tensor:
    """Return the pooled cells (N, 5, C) of RGB images in 0..1."""
    parts = [
        pool_grids(trunk.forward_features(2.0 * batch - 1.0), GRIDS)  # type: ignore[operator]
        for batch in torch.split(pixels_NCHW, batch_size)
    ]
    return torch.cat(parts)


View = tuple[torch.Tensor, torch.Tensor]


def _single_views(
    images_NCHW: torch.Tensor, ids: np.ndarray, config: ViewsConfig, *, seed: int
) -> Iterator[View]:
    labels_NP = torch.full((len(ids), NUM_CELLS), IGNORE_INDEX)
    labels_NP[:, 0] = torch.from_numpy(ids)
    for view in range(config.views_per_image):
        rng = named_rng(seed, "tower", "view", view)
        if view == 0:
            yield images_NCHW, labels_NP  # the first view is not augmented
            continue
        size = images_NCHW.shape[-1]
        yield _augment(images_NCHW, rng, config, (config.scale_range, size)), labels_NP


def _scene_views(
    images_NCHW: torch.Tensor, ids: np.ndarray, config: ViewsConfig, *, seed: int, nothing: int
) -> Iterator[View]:
    batch_size, half, size = 500, config.scene_pixels // 2, images_NCHW.shape[-1]
    for start in range(0, config.num_scenes, batch_size):
        count = min(batch_size, config.num_scenes - start)
        rng = named_rng(seed, "tower", "scenes", start)
        chosen = rng.integers(len(ids), size=(count, 4))
        present = rng.random((count, 4)).argsort(axis=1) < rng.integers(1, 5, size=(count, 1))
        objects = images_NCHW[torch.from_numpy(chosen.reshape(-1))]
        objects = _augment(objects, rng, config, (config.scene_scale_range, half))
        absent = torch.from_numpy(~present.reshape(-1))
        objects[absent] = 1.0
        tiles = objects.view(count, 2, 2, 3, half, half).permute(0, 3, 1, 4, 2, 5)
        scenes = tiles.reshape(count, 3, 2 * half, 2 * half)
        cells = np.where(present, ids[chosen], nothing)
        # A scene has no name of its own: its label is that of one of its objects, drawn at random.
        shown = np.array([rng.choice(row[mask]) for row, mask in zip(cells, present, strict=True)])
        labels = np.concatenate([shown[:, None], cells], axis=1)
        yield resize_pixels(scenes, size), torch.from_numpy(labels)


def resize_pixels(pixels_NCHW: torch.Tensor, size: int) -> torch.Tensor:
    """Resize with bicubic interpolation, as the tower's transform does."""
    resized = functional.interpolate(
        pixels_NCHW, size=(size, size), mode="bicubic", antialias=True, align_corners=False
    )
    return resized.clamp(0.0, 1.0)


def _augment(
    images_NCHW: torch.Tensor,
    rng: np.random.Generator,
    config: ViewsConfig,
    scale_and_size: tuple[tuple[float, float], int],
) -> torch.Tensor:
    """Rotate, scale, shift, mirror and tint every image at random, on a white background."""
    scale_range, size = scale_and_size
    count = images_NCHW.shape[0]
    angle = np.radians(rng.uniform(-1, 1, count) * config.max_rotation_degrees)
    scale = rng.uniform(*scale_range, count)
    mirror = np.where(rng.random(count) < 0.5, -1.0, 1.0)  # noqa: PLR2004 - a fair coin
    shift = rng.uniform(-2, 2, (count, 2)) * config.max_shift
    theta = np.zeros((count, 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 0, 1] = mirror * np.cos(angle) / scale, -np.sin(angle) / scale
    theta[:, 1, 0], theta[:, 1, 1] = mirror * np.sin(angle) / scale, np.cos(angle) / scale
    theta[:, :, 2] = shift
    gain = 1.0 + rng.uniform(-1, 1, (count, 3)).astype(np.float32) * config.colour_jitter
    # Downsample first: sampling a large image sparsely would alias.
    factor = math.ceil(images_NCHW.shape[-1] / size)
    small = functional.avg_pool2d(images_NCHW, factor) if factor > 1 else images_NCHW
    shape = (count, 3, size, size)
    grid = functional.affine_grid(torch.from_numpy(theta), list(shape), align_corners=False)
    ink = functional.grid_sample(1.0 - small, grid, align_corners=False)  # zero ink outside
    return (1.0 - ink * torch.from_numpy(gain)[:, :, None, None]).clamp(0.0, 1.0)

"""Training views of the distillation: strongly augmented drawings, alone or in 2x2 scenes.

A group of views is a function of the drawings, the settings, the seed and the group's number.
"""

import numpy as np
import torch
from torch.nn import functional

from core.rng import named_rng
from lightning_modules.contrastive.views import resize_pixels
from lightning_modules.distillation.recipe import DrawingViewsConfig

CANVAS_PIXELS = 192
"""Side of a view, which is the input size of the teacher."""

_QUADRANTS = 4
_LIGHTEST_TINT = 0.55
_MAX_MIX = 0.5


def make_views(
    drawings_NCHW: np.ndarray, config: DrawingViewsConfig, *, seed: int, chunk: int
) -> torch.Tensor:
    """Return a group of views: RGB values in 0..1, shape (views, 3, 192, 192).

    Args:
        drawings_NCHW: uint8 drawings on white, all of one size.
        config: Number of views and strength of their augmentation.
        seed: Seed of the augmentation.
        chunk: Number of the group.
    """
    rng = named_rng(seed, "distillation", "views", chunk)
    count = config.chunk_views
    is_scene_N = rng.random(count) < config.scene_share
    views_NCHW = torch.ones(count, 3, CANVAS_PIXELS, CANVAS_PIXELS)
    singles = torch.from_numpy(np.flatnonzero(~is_scene_N))
    if len(singles):
        chosen = rng.integers(len(drawings_NCHW), size=len(singles))
        views_NCHW[singles] = _place(drawings_NCHW[chosen], rng, config, CANVAS_PIXELS)
    scenes = torch.from_numpy(np.flatnonzero(is_scene_N))
    if len(scenes):
        views_NCHW[scenes] = _make_scenes(drawings_NCHW, len(scenes), rng, config)
    return _degrade(views_NCHW, rng, config)


def _make_scenes(
    drawings_NCHW: np.ndarray, count: int, rng: np.random.Generator, config: DrawingViewsConfig
) -> torch.Tensor:
    half = CANVAS_PIXELS // 2
    chosen = rng.integers(len(drawings_NCHW), size=count * _QUADRANTS)
    num_shown = rng.integers(1, _QUADRANTS + 1, size=(count, 1))
    is_shown = rng.random((count, _QUADRANTS)).argsort(axis=1) < num_shown
    placed = _place(drawings_NCHW[chosen], rng, config, half)
    placed[torch.from_numpy(~is_shown.reshape(-1))] = 1.0
    tiles = placed.view(count, 2, 2, 3, half, half).permute(0, 3, 1, 4, 2, 5)
    return tiles.reshape(count, 3, CANVAS_PIXELS, CANVAS_PIXELS)


def _place(
    drawings_NCHW: np.ndarray, rng: np.random.Generator, config: DrawingViewsConfig, size: int
) -> torch.Tensor:
    """Rotate, scale, shift, mirror and tint drawings at random, on a white square of a size."""
    count = len(drawings_NCHW)
    angle = np.radians(rng.uniform(-1, 1, count) * config.max_rotation_degrees)
    scale = rng.uniform(*config.scale_range, count)
    mirror = np.where(rng.random(count) < 0.5, -1.0, 1.0)  # noqa: PLR2004 - a fair coin
    theta = np.zeros((count, 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 0, 1] = mirror * np.cos(angle) / scale, -np.sin(angle) / scale
    theta[:, 1, 0], theta[:, 1, 1] = mirror * np.sin(angle) / scale, np.cos(angle) / scale
    theta[:, :, 2] = rng.uniform(-2, 2, (count, 2)) * config.max_shift
    gain = 1.0 + rng.uniform(-1, 1, (count, 3)).astype(np.float32) * config.colour_jitter
    ink_NCHW = 1.0 - torch.from_numpy(drawings_NCHW).float() / 255.0
    grid = functional.affine_grid(
        torch.from_numpy(theta), [count, 3, size, size], align_corners=False
    )
    placed = functional.grid_sample(ink_NCHW, grid, align_corners=False)  # zero ink outside
    return (1.0 - placed * torch.from_numpy(gain)[:, :, None, None]).clamp(0.0, 1.0)


def _degrade(
    views_NCHW: torch.Tensor, rng: np.random.Generator, config: DrawingViewsConfig
) -> torch.Tensor:
    """Tint backgrounds, reduce resolutions and blend views at random."""
    count = len(views_NCHW)
    tint = rng.uniform(_LIGHTEST_TINT, 1.0, (count, 3)).astype(np.float32)
    tint[rng.random(count) >= config.tinted_share] = 1.0
    views_NCHW *= torch.from_numpy(tint)[:, :, None, None]
    coarse = torch.from_numpy(np.flatnonzero(rng.random(count) < config.coarse_share))
    if len(coarse):
        views_NCHW[coarse] = resize_pixels(
            resize_pixels(views_NCHW[coarse], CANVAS_PIXELS // 2), CANVAS_PIXELS
        )
    share = rng.uniform(0, _MAX_MIX, count).astype(np.float32)
    share[rng.random(count) >= config.mixed_share] = 0.0
    mix = torch.from_numpy(share)[:, None, None, None]
    other = torch.from_numpy(rng.permutation(count))
    return (1.0 - mix) * views_NCHW + mix * views_NCHW[other]

"""Training of the embedded vision tower: CLIP with a frozen trunk and a bank of English names.

An ImageNet trunk (EfficientNet-Lite0, Apache-2.0) stays frozen. An MLP head and a small text tower
are trained so that the embedding of an image is close to that of its English name, and the
embedding of each quadrant of a scene to that of the object in it. The result is to the embedded
profile what CLIP is to the paper: a tower aligned with English text before the language model
receives any image. Only the training styles and English names are used.
"""

import dataclasses
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import lightning
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from core.errors import DataError
from core.io.images import decode_image
from core.rng import seeded, torch_generator
from lightning_modules.contrastive.module import ContrastiveModule, TowerRecipe, build_clip
from lightning_modules.contrastive.names import encode_names, train_name_tokenizer
from lightning_modules.contrastive.saving import save_tower
from lightning_modules.contrastive.views import TrunkViews, trunk_views

EMPTY_NAME = "nothing"
"""Name of an empty quadrant."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TowerImage:
    """Image of a single object and its English name."""

    name: str
    image: bytes


def train_tower(
    images: Sequence[TowerImage], recipe: TowerRecipe, *, seed: int, out_dir: Path
) -> ContrastiveModule:
    """Train on single images and scenes composed of them, and save a CLIP model for open_clip.

    Raises:
        DataError: If there are fewer than two names, or an image is broken.
        CheckpointError: If the trunk's weights are missing or are not the expected ones.
    """
    names = sorted({image.name for image in images})
    if len(names) < 2:  # noqa: PLR2004 - a contrast needs two
        raise DataError(f"a tower needs at least two names, got {names}")
    tokenizer = train_name_tokenizer([*names, EMPTY_NAME], recipe)
    clip = build_clip(recipe, seed=seed)
    name_ids = {name: index for index, name in enumerate(names)}
    views = trunk_views(
        clip.visual.trunk,
        stack_images(images, recipe.image_size),
        [name_ids[image.name] for image in images],
        recipe.views,
        seed=seed,
    )
    module = ContrastiveModule(clip, encode_names(tokenizer, [*names, EMPTY_NAME], recipe), recipe)
    _fit(module, views, seed=seed)
    _normalise_feature_scale(module, views)
    save_tower(out_dir, module, tokenizer)
    return module


def _fit(module: ContrastiveModule, views: TrunkViews, *, seed: int) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    loader = DataLoader(
        TensorDataset(views.features_MPC, views.labels_MP),
        batch_size=module.recipe.batch_size,
        shuffle=True,
        drop_last=len(views.labels_MP) >= module.recipe.batch_size,
        generator=torch_generator(seed, "tower", "order"),
    )
    trainer = lightning.Trainer(
        max_steps=module.recipe.num_steps,
        max_epochs=-1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
    )
    # Dropout draws from torch's global generator.
    with seeded(seed, "tower", "dropout"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
        trainer.fit(module, loader)
    module.eval()


@torch.no_grad()
def _normalise_feature_scale(module: ContrastiveModule, views: TrunkViews) -> None:
    """Scale features to unit mean square, so that a linear connector starts well.

    Cosine similarities do not change.
    """
    features_MPE = module.clip.visual.head(views.features_MPC[:2000].float())
    scale = features_MPE.square().mean().rsqrt()
    for parameter in module.clip.visual.head.mlp.fc2.parameters():
        parameter.mul_(scale)


def stack_images(images: Sequence[TowerImage], size: int) -> torch.Tensor:
    """Decode images and resize them (bicubic) to RGB values in 0..1, shape (N, 3, size, size)."""
    arrays = []
    for named in images:
        resized = decode_image(named.image).resize((size, size), Image.Resampling.BICUBIC)
        arrays.append(np.asarray(resized, dtype=np.float32).transpose(2, 0, 1) / np.float32(255))
    return torch.from_numpy(np.stack(arrays))

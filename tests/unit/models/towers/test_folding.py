"""Folded batch norms give the same features, with and without activations."""

import timm
import torch
from torch import nn

from models.towers.folding import fold_batch_norms


def settled(module: nn.Module) -> nn.Module:
    """Set evaluation mode and random statistics."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 2.0)
            nn.init.normal_(part.bias)
    return module.double().eval()


def test_a_folded_timm_tower_gives_the_same_features() -> None:
    torch.manual_seed(0)
    tower = settled(timm.create_model("efficientnet_b0", num_classes=0))
    pixels = torch.rand(2, 3, 64, 64, dtype=torch.double)
    with torch.no_grad():
        expected = tower(pixels)
        assert fold_batch_norms(tower, pixels[:1]) == 49
        assert not any(isinstance(part, nn.BatchNorm2d) for part in tower.modules())
        assert torch.allclose(tower(pixels), expected, rtol=1e-6)


def test_a_norm_without_convolution_is_kept() -> None:
    tower = settled(
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))
    )
    pixels = torch.rand(1, 3, 8, 8, dtype=torch.double)
    with torch.no_grad():
        expected = tower(pixels)
        assert fold_batch_norms(tower, pixels) == 0
        assert torch.equal(tower(pixels), expected)

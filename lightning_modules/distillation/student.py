"""The student of a distillation: a small `CLIPVisionModel` and its naming head.

LLaVA reads the patch tokens before the last block, without class token and final norm. The student
is trained on exactly these tokens. Its last block is the identity, so that a program
that reads the output of the last block gets the same tokens.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

from core.rng import seeded
from lightning_modules.contrastive.views import GRIDS
from lightning_modules.distillation.recipe import StudentShape
from models.towers.vision_tower import pool_grids

MEAN, STD = (0.86, 0.86, 0.86), (0.21, 0.21, 0.21)
"""Normalisation of the pixels: about those of drawings on white, so that the constant background
does not dominate the patches."""

_POSITION_AMPLITUDE = 0.5
_LONGEST_WAVE = 100.0


class Student(nn.Module):
    """ViT and the projection of its tokens to the space that images and names share."""

    def __init__(self, shape: StudentShape, *, embed_width: int, seed: int) -> None:
        super().__init__()
        self.shape = shape
        config = CLIPVisionConfig(
            hidden_size=shape.width,
            intermediate_size=shape.mlp_width,
            num_hidden_layers=shape.num_layers + 1,
            num_attention_heads=shape.num_heads,
            image_size=shape.image_size,
            patch_size=shape.patch_size,
            projection_dim=embed_width,
            hidden_act="gelu",
        )
        with seeded(seed, "distillation", "init"):  # Hugging Face draws from the global generator
            self.vision = CLIPVisionModel(config)
            self.projection = nn.Linear(shape.width, embed_width)
        self._init_positions()
        last = self._encoder().encoder.layers[-1]
        for layer in (last.self_attn.out_proj, last.mlp.fc2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        last.requires_grad_(requires_grad=False)
        self._encoder().post_layernorm.requires_grad_(requires_grad=False)

    def tokens(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the patch tokens (N, P, W) that LLaVA reads of normalised pixels."""
        vision = self._encoder()
        states_NPW: torch.Tensor = vision.pre_layrnorm(vision.embeddings(pixels_NCHW))
        for block in vision.encoder.layers[:-1]:
            states_NPW = block(states_NPW, None)
        return states_NPW[:, 1:]

    def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return unit embeddings (N, 5 + P, E): whole image, quadrants, then every token."""
        tokens_NPW = self.tokens(pixels_NCHW)
        grid = self.shape.grid
        maps_NWHH = tokens_NPW.transpose(1, 2).reshape(-1, self.shape.width, grid, grid)
        cells_NCW = pool_grids(maps_NWHH, (*GRIDS, grid))
        return functional.normalize(self.projection(cells_NCW), dim=-1)

    @torch.no_grad()
    def scale_tokens(self, factor: float) -> None:
        """Multiply all tokens by a factor; embeddings do not change.

        Blocks normalise their input, so scaling everything that is added to the residual stream
        scales the stream and nothing else.
        """
        vision = self._encoder()
        scaled = [vision.pre_layrnorm, self.projection]
        for block in vision.encoder.layers:
            scaled += [block.self_attn.out_proj, block.mlp.fc2]
        for module in scaled:
            if module is self.projection:
                module.weight.div_(factor)
                continue
            module.weight.mul_(factor)
            module.bias.mul_(factor)

    @torch.no_grad()
    def _init_positions(self) -> None:
        """Start from waves over rows and columns; small models learn faster from these."""
        table = self._encoder().embeddings.position_embedding.weight
        quarter = self.shape.width // 4
        waves_F = _LONGEST_WAVE ** -(torch.arange(quarter) / quarter)
        angles_HF = torch.arange(self.shape.grid)[:, None] * waves_F
        waves_HE = torch.cat([angles_HF.sin(), angles_HF.cos()], dim=1)
        grid = self.shape.grid
        rows_HHE = waves_HE[:, None].expand(grid, grid, -1)
        columns_HHE = waves_HE[None].expand(grid, grid, -1)
        table.zero_()
        table[1:, : 4 * quarter] = torch.cat([rows_HHE, columns_HHE], dim=2).flatten(0, 1)
        table.mul_(_POSITION_AMPLITUDE)

    def _encoder(self) -> CLIPVisionModel:
        # Until transformers 5.1 the modules are one level deeper.
        encoder: CLIPVisionModel = getattr(self.vision, "vision_model", self.vision)
        return encoder


def normalise_pixels(pixels_NCHW: torch.Tensor) -> torch.Tensor:
    """Return normalised pixels of uint8 values, as the image processor of the result does."""
    mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels_NCHW.float() / 255.0 - mean_C11) / std_C11

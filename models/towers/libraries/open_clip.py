"""open_clip towers: its own vision transformers and the timm models it wraps."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from core.errors import CheckpointError, ConfigError, unknown_name
from models.towers.image_transform import ImageTransform, ResizeMode
from models.towers.vision_tower import (
    TowerFeature,
    VisionTower,
    VisionTowerConfig,
    pool_grids,
    register_tower,
)

OPEN_CLIP_CONFIG_FILE = "open_clip_config.json"
OPEN_CLIP_WEIGHTS_FILE = "model.safetensors"

_BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TOP_NAMES = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
"""Weight names: open_clip to Hugging Face, whose spelling "layrnorm" is not a typo of ours."""


@register_tower("open_clip")
class OpenClipTower(VisionTower):
    """Vision tower of an open_clip model."""

    has_pooled_grid = True
    has_tags = True

    @classmethod
    def load(cls, config: VisionTowerConfig) -> Self:
        """Load from a folder, or by the name of a model and the tag of its weights."""
        import open_clip  # requires torchvision, which runs with cached features do not need

        identifier, pretrained = _locate_model(config)
        try:
            model = open_clip.create_model(identifier, pretrained=pretrained, weights_only=True)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"tower '{identifier}' can't be loaded: {error}") from error
        return cls(model.visual, config, _read_transform(model.visual))

    @classmethod
    def empty(cls, config: VisionTowerConfig) -> Self:
        """Build the model without weights."""
        import open_clip  # as above

        identifier, _ = _locate_model(config)
        threshold = logging.root.manager.disable
        logging.disable(logging.WARNING)  # silence the warning about random weights
        try:
            with torch.device("meta"):
                model = open_clip.create_model(
                    identifier, load_weights=False, pretrained_text=False, device="meta"
                )
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"tower '{identifier}' can't be built: {error}") from error
        finally:
            logging.disable(threshold)
        return cls(model.visual, config, _read_transform(model.visual))

    def clip_vision_config(self) -> dict[str, Any]:
        """Read the configuration from the shapes of the modules."""
        visual: Any = self.visual
        if self.config.feature is not TowerFeature.PENULTIMATE or not hasattr(
            visual, "transformer"
        ):
            raise self._no_clip_vit()
        block = visual.transformer.resblocks[0]
        (height, width), (patch_height, patch_width) = visual.image_size, visual.patch_size
        if height != width or patch_height != patch_width:
            raise ConfigError(f"stock CLIP requires square images, got {height}x{width}")
        return {
            "hidden_size": visual.transformer.width,
            "intermediate_size": block.mlp.c_fc.out_features,
            "projection_dim": int(visual.output_dim),
            "num_hidden_layers": len(visual.transformer.resblocks),
            "num_attention_heads": block.attn.num_heads,
            "image_size": int(height),
            "patch_size": int(patch_height),
            "hidden_act": _activation_name(block.mlp.gelu),
            "layer_norm_eps": float(block.ln_1.eps),
        }

    def clip_vision_weights(self) -> dict[str, torch.Tensor]:
        """Rename all tensors except the projection to the text space, which LLaVA does not use."""
        ours = dict(self.visual.state_dict())
        ours.pop("proj", None)
        theirs: dict[str, torch.Tensor] = {}
        for name, value in ours.items():
            theirs.update(_rename_tensor(name, value))
        missing = sorted(set(_TOP_NAMES.values()) - theirs.keys())
        if missing:
            raise ConfigError(
                f"the tower has no {missing[0]}; stock CLIP needs {len(missing)} more tensors"
            )
        return theirs

    def _feature_shape(self) -> tuple[int, int]:
        if self.config.feature is TowerFeature.POOLED_GRID:
            num_tokens = sum(size * size for size in self.config.grids)
            return num_tokens, _projection_width(self.visual)
        return _patch_shape(self.visual)

    def _extract(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        visual: Any = self.visual
        features_NPE: torch.Tensor
        if self.config.feature is TowerFeature.POOLED_GRID:
            maps_NCHW = visual.trunk.forward_features(pixels_NCHW)
            features_NPE = visual.head(pool_grids(maps_NCHW, self.config.grids))
            return features_NPE
        outputs = visual.forward_intermediates(
            pixels_NCHW,
            indices=[-2],
            stop_early=True,
            normalize_intermediates=False,  # normalised features differ from LLaVA's by 0.5
            intermediates_only=True,
            output_fmt="NLC",
        )
        features_NPE = outputs["image_intermediates"][0]
        return features_NPE


def _locate_model(config: VisionTowerConfig) -> tuple[str, str | None]:
    """Return open_clip's identifier of the model and the tag of its weights."""
    _ = config.source  # raises unless exactly one of path and name is set
    if config.name:
        if not config.pretrained:
            raise ConfigError(f"tower.name '{config.name}' needs tower.pretrained, e.g. openai")
        _check_activation(config.name, config.pretrained)
        return config.name, config.pretrained
    for file in (OPEN_CLIP_CONFIG_FILE, OPEN_CLIP_WEIGHTS_FILE):
        if not (Path(config.path) / file).is_file():
            raise CheckpointError(f"tower folder '{config.path}' has no {file}")
    return f"local-dir:{config.path}", None


def _check_activation(name: str, tag: str) -> None:
    """Reject a model whose GELU differs from that of its weights; open_clip only warns.

    Raises:
        ConfigError: If they differ; the message contains the right name.
    """
    import open_clip

    model = open_clip.get_model_config(name)
    if model is None:
        raise ConfigError(unknown_name("open_clip model", name, open_clip.list_models()))
    weights = open_clip.get_pretrained_cfg(name, tag)  # empty for a file and for unknown tags
    if weights.get("quick_gelu", False) and not model.get("quick_gelu", False):
        raise ConfigError(
            f"tower '{name}' computes GELU, but its weights '{tag}' were trained with QuickGELU: "
            f"its features would be silently wrong. Use tower.name={name}-quickgelu"
        )


def _read_transform(visual: Any) -> ImageTransform:
    """Return the preprocessing that open_clip specifies for the model."""
    settings = visual.preprocess_cfg
    size = settings["size"]
    height, width = (size, size) if isinstance(size, int) else size
    modes = [mode.value for mode in ResizeMode]
    is_supported = (settings["interpolation"], settings["mode"]) == ("bicubic", "RGB")
    if height != width or not is_supported or settings["resize_mode"] not in modes:
        raise ConfigError(
            f"tower expects images {settings}; supported: square, RGB, bicubic, {modes}"
        )
    return ImageTransform(
        size=int(height),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        resize_mode=ResizeMode(settings["resize_mode"]),
    )


def _patch_shape(visual: Any) -> tuple[int, int]:
    """Return the number and width of the patch tokens."""
    if hasattr(visual, "transformer") and hasattr(visual, "grid_size"):
        rows, columns = visual.grid_size
        return rows * columns, visual.transformer.width
    trunk = getattr(visual, "trunk", None)
    if trunk is not None and hasattr(trunk, "patch_embed"):
        return trunk.patch_embed.num_patches, trunk.embed_dim
    kind = type(trunk if trunk is not None else visual).__name__
    raise ConfigError(f"{kind} has no transformer blocks; use tower.feature=pooled_grid")


def _projection_width(visual: Any) -> int:
    """Return the output width of the projection head of an average-pooling timm tower."""
    layers = [m for m in getattr(visual, "head", nn.Identity()).modules() if hasattr(m, "weight")]
    if not hasattr(visual, "trunk") or not layers or not isinstance(layers[-1], nn.Linear):
        kind = type(visual).__name__
        raise ConfigError(
            f"pooled_grid needs a timm tower (timm_pool avg, timm_proj mlp or linear), got {kind}"
        )
    return layers[-1].out_features


def _rename_tensor(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a tensor under its Hugging Face name; the joint attention input becomes three."""
    if name in _TOP_NAMES:
        return {_TOP_NAMES[name]: value}
    parts = name.split(".")
    if parts[:2] == ["transformer", "resblocks"]:
        block, inner, kind = f"encoder.layers.{parts[2]}", ".".join(parts[3:-1]), parts[-1]
        if inner in _BLOCK_NAMES:
            return {f"{block}.{_BLOCK_NAMES[inner]}.{kind}": value}
        if inner == "attn" and kind.startswith("in_proj_"):
            kind = kind.removeprefix("in_proj_")
            pieces = zip("qkv", value.chunk(3), strict=True)
            return {f"{block}.self_attn.{x}_proj.{kind}": piece.clone() for x, piece in pieces}
    raise ConfigError(f"tensor '{name}' of the tower has no counterpart in a stock CLIP ViT")


def _activation_name(activation: nn.Module | Callable[..., torch.Tensor]) -> str:
    """Return the Hugging Face name of a GELU; the wrong one degrades the features silently."""
    if type(activation).__name__ == "QuickGELU":
        return "quick_gelu"
    if isinstance(activation, nn.GELU) and activation.approximate == "none":
        return "gelu"
    raise ConfigError(f"activation {activation} of the tower does not exist in CLIP")

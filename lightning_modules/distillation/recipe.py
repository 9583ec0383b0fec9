"""Settings that determine a distilled vision tower, together with the drawings and the seed."""

import dataclasses

from core.errors import ConfigError
from lightning_modules.optim import OptimConfig

QUADRANTS_PER_SIDE = 2


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StudentShape:
    """Dimensions of the student, a `transformers.CLIPVisionModel`."""

    image_size: int = 144
    """Side of the input in pixels."""
    patch_size: int = 24
    """Side of a patch; 144 / 24 gives 36 visual tokens, nine in every quadrant."""
    width: int = 192
    """Width of the visual tokens."""
    num_layers: int = 6
    """Trained blocks; one more, which is the identity, follows them because LLaVA reads the tokens
    before the last block."""
    num_heads: int = 3
    """Attention heads of a block."""
    mlp_width: int = 768
    """Width of the hidden layer of a block."""

    def __post_init__(self) -> None:
        """Check that the patches fill the image and its quadrants, and the heads the width."""
        if self.image_size % (QUADRANTS_PER_SIDE * self.patch_size):
            raise ConfigError(
                f"shape.image_size={self.image_size} with patch_size={self.patch_size}: every "
                f"quadrant needs whole patches; use a multiple of {2 * self.patch_size}"
            )
        if self.width % self.num_heads:
            raise ConfigError(
                f"shape.width={self.width} is not divisible by num_heads={self.num_heads}"
            )

    @property
    def grid(self) -> int:
        """Number of tokens along a side."""
        return self.image_size // self.patch_size


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DrawingViewsConfig:
    """Number of views and strength of their augmentation."""

    num_chunks: int = 32
    """Groups of views; each is computed once, by the teacher too, and kept on disk."""
    chunk_views: int = 1024
    """Views of a group."""
    scene_share: float = 0.6
    """Share of scenes of one to four drawings in a 2x2 layout; the others show one drawing."""
    max_rotation_degrees: float = 25.0
    """Uniform rotation of every drawing."""
    scale_range: tuple[float, float] = (0.55, 1.15)
    """Uniform scale of every drawing, as a share of its place."""
    max_shift: float = 0.15
    """Uniform shift, as a share of the place."""
    colour_jitter: float = 0.3
    """Uniform gain of every colour channel around 1."""
    tinted_share: float = 0.3
    """Share of views whose white background has another colour."""
    coarse_share: float = 0.3
    """Share of views that are reduced to half the resolution and enlarged again."""
    mixed_share: float = 0.2
    """Share of views that are blended with another view (mixup)."""

    def __post_init__(self) -> None:
        """Check numeric ranges."""
        for name in ("scene_share", "tinted_share", "coarse_share", "mixed_share"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ConfigError(f"views.{name} must be between 0 and 1, got {value}")
        for name in ("num_chunks", "chunk_views"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"views.{name} must be at least 1, got {value}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DistillationRecipe:
    """Settings that determine a distilled tower, together with the drawings and the seed."""

    shape: StudentShape = dataclasses.field(default_factory=StudentShape)
    """Dimensions of the student."""
    views: DrawingViewsConfig = dataclasses.field(default_factory=DrawingViewsConfig)
    """Training views."""
    optim: OptimConfig = dataclasses.field(
        default_factory=lambda: OptimConfig(lr=1e-3, weight_decay=0.05, min_lr_fraction=0.01)
    )
    """Optimizer and schedule."""
    num_steps: int = 8000
    """Optimizer steps."""
    batch_size: int = 64
    """Views per step; a divisor of `views.chunk_views`."""
    token_weight: float = 0.5
    """Weight of the loss of single tokens relative to that of image and quadrants."""
    name_weight: float = 0.5
    """Weight of the loss of the naming relative to that of image and quadrants."""

    def __post_init__(self) -> None:
        """Check that batches fill a group of views."""
        if self.num_steps < 1:
            raise ConfigError(f"num_steps must be at least 1, got {self.num_steps}")
        if self.batch_size < 1 or self.views.chunk_views % self.batch_size:
            raise ConfigError(
                f"batch_size={self.batch_size} does not divide views.chunk_views="
                f"{self.views.chunk_views}; choose a divisor"
            )

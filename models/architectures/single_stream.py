"""Architecture `single_stream`: no vision encoder, patches are embedded into the language model.

One linear layer embeds the pixels of every patch, as in Fuyu (and, with more layers, EVE,
arXiv 2406.11832). The language model itself has to learn to see. The place of a patch is that of
its token: all images have the same grid, and rotary positions tell its rows and columns apart.
"""

from collections.abc import Mapping
from typing import ClassVar

from core.errors import ConfigError
from models.architectures.linear import LinearConnector
from models.connector import register_connector
from models.towers.vision_tower import VisionTowerConfig


@register_connector("single_stream")
class PatchConnector(LinearConnector):
    """Affine map from the pixels (N, P, E) of patches to embeddings (N, P, D)."""

    default_options: ClassVar[Mapping[str, int]] = {"image_size": 336, "patch_size": 28}
    caches_features = False

    @classmethod
    def choose_tower(
        cls, tower: VisionTowerConfig, options: Mapping[str, int]
    ) -> VisionTowerConfig:
        """Return the tower that only cuts images into patches; `model.tower` is not used.

        Raises:
            ConfigError: If the patches do not tile the image.
        """
        del tower
        size, patch = options["image_size"], options["patch_size"]
        if size % patch:
            raise ConfigError(
                f"model.connector.options.single_stream: image_size={size} is not a multiple of "
                f"patch_size={patch}; change one of them"
            )
        return VisionTowerConfig(library="patches", name=f"{size}/{patch}")

"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: dynamic resolution and multimodal rotary positions.

Their vision encoders attend within each image, so images of any number of documents can follow
one another, and positions and mask of the decoder are arguments: documents are packed.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from models.ready_made.model_class import ReadyMadeClass

_MIN_PIXELS, _MAX_PIXELS = 65536, 16777216
"""Limits of Qwen3-VL's preprocessor_config.json."""


class QwenVl(ReadyMadeClass):
    """Rules of the Qwen-VL classes."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
    tower: ClassVar[tuple[str, ...]] = ("model.visual.",)
    connector: ClassVar[tuple[str, ...]] = (
        "model.visual.merger.",
        "model.visual.deepstack_merger_list.",
    )
    has_rotary_axes: ClassVar[bool] = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.patches_per_token = config.vision_config.spatial_merge_size**2

    @property
    def vision_sizes(self) -> tuple[int, int, int]:
        """Width, inner width and number of blocks of the vision encoder, for plans."""
        vision = self.config.vision_config
        width = getattr(vision, "embed_dim", None) or vision.hidden_size  # Qwen2-VL's own name
        inner = getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio)
        return width, inner, vision.depth

    def count_image_tokens(
        self, size: tuple[int, int], *, min_pixels: int | None, max_pixels: int | None
    ) -> int:
        """Return the cells of the grid of patches after merging, for plans."""
        vision = self.config.vision_config
        cell = vision.patch_size * vision.spatial_merge_size
        width, height = size
        resized = smart_resize(
            height,
            width,
            cell,
            min_pixels=min_pixels or _MIN_PIXELS,
            max_pixels=max_pixels or _MAX_PIXELS,
        )
        return int(resized[0] // cell) * int(resized[1] // cell)

    def rotary_positions(
        self, input_ids_T: np.ndarray, geometry: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Return time, height and width: text advances all three, an image spans its grid.

        The text after an image continues at the larger side of its grid (`get_rope_index`).
        """
        is_image_T = input_ids_T == self.config.image_token_id
        num_before_T = np.cumsum(~is_image_T) - ~is_image_T
        positions_AT = np.broadcast_to(num_before_T, (3, len(input_ids_T))).copy()
        if not is_image_T.any():
            return positions_AT
        merge = self.config.vision_config.spatial_merge_size
        (time, *sides) = geometry["image_grid_thw"][0].tolist()
        height, width = (side // merge for side in sides)
        grid_AM = np.indices((time, height, width)).reshape(3, -1)
        first = int(is_image_T.argmax())
        positions_AT[:, is_image_T] = first + grid_AM
        after_T = np.arange(len(input_ids_T)) > first
        positions_AT[:, after_T & ~is_image_T] += max(height, width)
        return positions_AT

"""LLaVA-OneVision: tiles of a grid that depends on the shape of the image.

The forward pass takes mask and positions of the decoder as arguments, and the number of tiles of
every image from its size: documents are packed.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from models.ready_made.model_class import ReadyMadeClass, pad_and_join


class LlavaOnevision(ReadyMadeClass):
    """Rules of LLaVA-OneVision."""

    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)
    tower: ClassVar[tuple[str, ...]] = ("model.vision_tower.",)
    connector: ClassVar[tuple[str, ...]] = ("model.multi_modal_projector.", "model.image_newline")

    def join_images(self, images: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Join the images; the model drops the tiles that fill up the smaller ones."""
        return pad_and_join(images, dim=0)

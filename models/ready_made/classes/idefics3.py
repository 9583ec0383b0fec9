"""Idefics3 and SmolVLM: tiles named in the prompt.

The forward pass counts the tiles of all rows together and scatters their features in the order of
the placeholders, so the tiles of all images follow one another: documents are packed.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from models.ready_made.model_class import ReadyMadeClass, pad_and_join


class Idefics3(ReadyMadeClass):
    """Rules of Idefics3 and SmolVLM."""

    model_types: ClassVar[tuple[str, ...]] = ("idefics3", "smolvlm")
    tower: ClassVar[tuple[str, ...]] = ("model.vision_model.",)
    connector: ClassVar[tuple[str, ...]] = ("model.connector.",)

    def join_images(self, images: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Join the tiles of all images as those of one sample."""
        return pad_and_join(images, dim=1)

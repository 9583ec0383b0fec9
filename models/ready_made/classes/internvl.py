"""InternVL in its Hugging Face form: crops of an image, whose features are scattered in order.

Mask and positions of the decoder are arguments of the forward pass: documents are packed.
"""

from typing import ClassVar

from models.ready_made.model_class import ReadyMadeClass


class InternVl(ReadyMadeClass):
    """Rules of InternVL."""

    model_types: ClassVar[tuple[str, ...]] = ("internvl",)
    tower: ClassVar[tuple[str, ...]] = ("model.vision_tower.",)
    connector: ClassVar[tuple[str, ...]] = ("model.multi_modal_projector.",)

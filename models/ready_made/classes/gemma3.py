"""Gemma 3: the tokens of an image attend to each other in both directions.

The forward pass takes a mask for each kind of layer, so that packed documents are separated by
masks with the same rules: causal or within an image, and in local layers within the window.
"""

from typing import Any, ClassVar

import torch

from core.samples import MicroBatch
from models.language.attention import AttentionKind, additive_mask
from models.ready_made.model_class import ReadyMadeClass


class Gemma3(ReadyMadeClass):
    """Rules of Gemma 3."""

    model_types: ClassVar[tuple[str, ...]] = ("gemma3",)
    tower: ClassVar[tuple[str, ...]] = ("model.vision_tower.",)
    connector: ClassVar[tuple[str, ...]] = ("model.multi_modal_projector.",)
    cpu_attention: ClassVar[AttentionKind] = AttentionKind.MASK

    def attention_inputs(
        self, micro_batch: MicroBatch, kind: AttentionKind, dtype: torch.dtype
    ) -> dict[str, Any]:
        """Return the masks of global and of local layers; a document has at most one image."""
        del kind
        ids_BT, documents_BT = micro_batch.input_ids_BT, micro_batch.document_ids_BT
        is_image_BT = ids_BT == self.config.image_token_id
        places_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        is_causal_TT = places_T[:, None] >= places_T
        is_in_window_TT = places_T[:, None] - places_T < self.config.text_config.sliding_window
        same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
        image_BTT = is_image_BT[:, :, None] & is_image_BT[:, None, :]
        global_BTT = same_BTT & (is_causal_TT | image_BTT)
        masks = {
            "full_attention": global_BTT,
            "sliding_attention": global_BTT & is_in_window_TT,
        }
        return {
            "attention_mask": {
                name: additive_mask(mask_BTT[:, None], dtype) for name, mask_BTT in masks.items()
            }
        }

"""Gemma 3: the tokens of an image attend to each other in both directions.

The forward pass takes a mask for each kind of layer, so that packed documents are separated by
masks with the same rules: causal or within an image, and in local layers within the window.
"""

import dataclasses
from typing import Any, ClassVar

import torch

from core.samples import MicroBatch
from models.language.attention import AttentionKind, Documents, additive_mask
from models.ready_made.model_class import ReadyMadeClass


class Gemma3(ReadyMadeClass):
    """Rules of Gemma 3."""

    model_types: ClassVar[tuple[str, ...]] = ("gemma3",)
    tower: ClassVar[tuple[str, ...]] = ("model.vision_tower.",)
    connector: ClassVar[tuple[str, ...]] = ("model.multi_modal_projector.",)

    def attention_inputs(
        self, micro_batch: MicroBatch, kind: AttentionKind, dtype: torch.dtype
    ) -> dict[str, Any]:
        """Return the masks of global and of local layers; a document has at most one image."""
        if kind is AttentionKind.DOCUMENTS and not micro_batch.has_branches:
            masks = dict.fromkeys(("full_attention", "sliding_attention"))  # none is built
            return {"attention_mask": masks, "documents": self._documents(micro_batch)}
        ids_BT, documents_BT = micro_batch.input_ids_BT, micro_batch.document_ids_BT
        is_image_BT = ids_BT == self.config.image_token_id
        places_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        is_causal_TT = places_T[:, None] >= places_T
        is_in_window_TT = places_T[:, None] - places_T < self.config.text_config.sliding_window
        same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
        image_BTT = is_image_BT[:, :, None] & is_image_BT[:, None, :]
        global_BTT = same_BTT & (is_causal_TT | image_BTT)
        additive = {
            "full_attention": additive_mask(global_BTT[:, None], dtype),
            "sliding_attention": additive_mask((global_BTT & is_in_window_TT)[:, None], dtype),
        }
        return {"attention_mask": additive}

    def _documents(self, micro_batch: MicroBatch) -> Documents:
        """Return the documents with masks for those that have an image."""
        documents = Documents.of(micro_batch)
        is_image_N = micro_batch.input_ids_BT.flatten() == self.config.image_token_id
        masks = {}
        for number, is_image_L in enumerate(is_image_N.split(documents.lengths)):
            if is_image_L.any():
                is_within_LL = is_image_L[:, None] & is_image_L
                masks[number] = torch.ones_like(is_within_LL).tril() | is_within_LL
        return dataclasses.replace(documents, masks=masks)

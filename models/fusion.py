"""Fusion of visual embeddings and token embeddings."""

import torch

from core.errors import DataError


def fuse(
    token_embeds_BTD: torch.Tensor,
    image_embeds_NPD: torch.Tensor,
    input_ids_BT: torch.Tensor,
    image_token_id: int,
) -> torch.Tensor:
    """Replace the embeddings of placeholders by visual ones, in row-major order.

    Raises:
        DataError: If the numbers of placeholders and visual tokens differ. Tolerating a difference
            would pair images with the text of other images.
        ValueError: If the embeddings have different widths.
    """
    if token_embeds_BTD.shape[-1] != image_embeds_NPD.shape[-1]:
        widths = token_embeds_BTD.shape[-1], image_embeds_NPD.shape[-1]
        raise ValueError(f"token embeddings have width {widths[0]}, visual embeddings {widths[1]}")
    is_image_BT = input_ids_BT == image_token_id
    num_images, num_image_tokens = image_embeds_NPD.shape[:2]
    num_placeholders = int(is_image_BT.sum())
    if num_placeholders != num_images * num_image_tokens:
        raise DataError(
            f"{num_placeholders} placeholders in the tokens, {num_images * num_image_tokens} "
            f"visual tokens ({num_images} images x {num_image_tokens}); the batch is misaligned"
        )
    visual = image_embeds_NPD.to(token_embeds_BTD.dtype)
    return token_embeds_BTD.masked_scatter(is_image_BT.unsqueeze(-1), visual)

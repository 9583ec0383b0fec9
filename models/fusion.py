"""Fusion of visual embeddings and token embeddings."""

import torch

from core.errors import DataError


def fuse(
    token_embeds_BTD: torch.Tensor,
    image_embeds_NPD: torch.Tensor,
    image_positions_M: torch.Tensor,
) -> torch.Tensor:
    """Replace the embeddings of placeholders by visual ones, in row-major order.

    Args:
        token_embeds_BTD: Embeddings of the tokens.
        image_embeds_NPD: Projected features, in the order of their placeholders.
        image_positions_M: Positions of the placeholders in the rows laid one after the other.

    Raises:
        DataError: If the numbers of placeholders and visual tokens differ. Tolerating a difference
            would pair images with the text of other images.
        ValueError: If the embeddings have different widths.
    """
    if token_embeds_BTD.shape[-1] != image_embeds_NPD.shape[-1]:
        widths = token_embeds_BTD.shape[-1], image_embeds_NPD.shape[-1]
        raise ValueError(f"token embeddings have width {widths[0]}, visual embeddings {widths[1]}")
    num_images, num_image_tokens = image_embeds_NPD.shape[:2]
    num_placeholders = image_positions_M.numel()
    if num_placeholders != num_images * num_image_tokens:
        raise DataError(
            f"{num_placeholders} placeholders in the tokens, {num_images * num_image_tokens} "
            f"visual tokens ({num_images} images x {num_image_tokens}); the batch is misaligned"
        )
    visual_MD = image_embeds_NPD.to(token_embeds_BTD.dtype).flatten(0, 1)
    flat_ND = token_embeds_BTD.flatten(0, 1)
    return flat_ND.index_copy(0, image_positions_M, visual_MD).view_as(token_embeds_BTD)

"""Zero-shot naming: which of the English names is closest to an image or a quadrant."""

import torch

from lightning_modules.contrastive.views import NUM_CELLS
from lightning_modules.distillation.student import Student, normalise_pixels

_BATCH_IMAGES = 128


@torch.inference_mode()
def name_cells(student: Student, names_KE: torch.Tensor, pixels_NCHW: torch.Tensor) -> torch.Tensor:
    """Return similarities (N, 5, K) of image and quadrants to the names.

    Args:
        student: Student in evaluation mode.
        names_KE: Unit embeddings of the names.
        pixels_NCHW: uint8 images at the student's size.
    """
    parts = [
        student.embed(normalise_pixels(batch))[:, :NUM_CELLS] @ names_KE.T
        for batch in torch.split(pixels_NCHW, _BATCH_IMAGES)
    ]
    return torch.cat(parts)

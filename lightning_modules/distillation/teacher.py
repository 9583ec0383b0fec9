"""The teacher of a distillation: an embedded CLIP tower and its bank of English names."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from core.errors import CheckpointError
from core.io.reading import reading
from lightning_modules.contrastive.views import GRIDS
from models.towers.folding import fold_batch_norms
from models.towers.vision_tower import pool_grids

_BATCH_VIEWS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """Frozen parts of an embedded tower."""

    trunk: nn.Module
    head: nn.Module
    names_KE: torch.Tensor
    """Unit embeddings of the names."""
    logit_scale: float
    """Factor of similarities in the teacher's training."""

    @property
    def width(self) -> int:
        """Width of the embedding space that images and names share."""
        return self.names_KE.shape[1]

    @torch.inference_mode()
    def targets(self, views_NCHW: torch.Tensor, grid: int) -> torch.Tensor:
        """Return unit embeddings (N, 5 + grid * grid, E) of cells and tokens, as float16.

        Args:
            views_NCHW: RGB values in 0..1 at the teacher's input size.
            grid: Number of the student's tokens along a side.
        """
        parts = []
        for batch in torch.split(views_NCHW, _BATCH_VIEWS):
            pixels = (2.0 * batch - 1.0).contiguous(memory_format=torch.channels_last)
            maps_NCHW = self.trunk.forward_features(pixels)  # type: ignore[operator]
            pooled = pool_grids(maps_NCHW, (*GRIDS, grid))
            parts.append(functional.normalize(self.head(pooled), dim=-1).half())
        return torch.cat(parts)


def load_teacher(folder: Path, names: Sequence[str]) -> Teacher:
    """Load the teacher and embed names with its text tower.

    Raises:
        CheckpointError: If the folder is not a complete open_clip model with a convolutional trunk.
    """
    with reading(folder, fix="restore the files of the tower", error_class=CheckpointError):
        clip: Any = open_clip.create_model(f"local-dir:{folder}", weights_only=True).eval()
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        trunk, head = clip.visual.trunk, clip.visual.head
        size = clip.visual.preprocess_cfg["size"]
        side = size if isinstance(size, int) else size[0]
        fold_batch_norms(clip.visual, torch.zeros(1, 3, side, side))
    ids_KL = tokenizer(list(names), padding="max_length", max_length=clip.context_length)
    with torch.inference_mode():
        names_KE = clip.encode_text(torch.tensor(ids_KL["input_ids"]), normalize=True)
    for module in (trunk, head):
        module.requires_grad_(requires_grad=False)
    return Teacher(
        trunk=trunk,
        head=head,
        names_KE=names_KE.clone(),
        logit_scale=float(clip.logit_scale.detach().exp().clamp(max=100.0)),
    )

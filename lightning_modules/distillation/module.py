"""Training of the student: its cells, tokens and naming follow those of the teacher."""

from typing import Any

import lightning
import torch
from torch.nn import functional

from lightning_modules.contrastive.views import NUM_CELLS
from lightning_modules.distillation.recipe import DistillationRecipe
from lightning_modules.distillation.student import Student, normalise_pixels
from lightning_modules.optim import build_optimizer, lr_factor


class DistillationModule(lightning.LightningModule):
    """Distillation of cached targets.

    The loss is the mean cosine distance to the teacher's embeddings of image and quadrants, the
    same for single tokens, and the divergence of the distribution over the names.
    """

    def __init__(
        self,
        student: Student,
        names_KE: torch.Tensor,
        recipe: DistillationRecipe,
        *,
        logit_scale: float,
    ) -> None:
        super().__init__()
        self.student = student
        self.recipe = recipe
        self.logit_scale = logit_scale
        self.names_KE: torch.Tensor
        self.register_buffer("names_KE", names_KE, persistent=False)

    def training_step(
        self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int
    ) -> torch.Tensor:
        """Return the loss of a batch of uint8 pixels and float16 targets."""
        del batch_idx
        pixels_NCHW, targets_NTE = batch
        targets_NTE = targets_NTE.float()
        found_NTE = self.student.embed(normalise_pixels(pixels_NCHW))
        distance_NT = 1.0 - (found_NTE * targets_NTE).sum(dim=-1)
        cells, tokens = distance_NT[:, :NUM_CELLS].mean(), distance_NT[:, NUM_CELLS:].mean()
        names = self._naming_loss(found_NTE[:, :NUM_CELLS], targets_NTE[:, :NUM_CELLS])
        recipe = self.recipe
        loss = cells + recipe.token_weight * tokens + recipe.name_weight * names
        self.log_dict({"loss": loss, "cells": cells, "tokens": tokens, "names": names})
        return loss

    def _naming_loss(self, found_NCE: torch.Tensor, targets_NCE: torch.Tensor) -> torch.Tensor:
        """Return the mean divergence from the teacher's distribution over the names, in nats."""
        ours, theirs = (
            functional.log_softmax(cells @ self.names_KE.T * self.logit_scale, dim=-1).flatten(0, 1)
            for cells in (found_NCE, targets_NCE)
        )
        return functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")

    def configure_optimizers(self) -> Any:
        """Build AdamW with a warm-up and a cosine decay."""
        recipe = self.recipe
        optimizer = build_optimizer(self.parameters(), recipe.optim)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: lr_factor(step, num_steps=recipe.num_steps, config=recipe.optim),
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

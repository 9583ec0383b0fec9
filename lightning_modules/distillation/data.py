"""Batches of a distillation: groups of views with the teacher's targets, kept on disk.

A batch is a function of the step, so a training resumes in any step. The teacher sees a group once,
when the training first reaches it.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from core.io.files import atomic_path
from core.rng import named_rng
from lightning_modules.contrastive.views import resize_pixels
from lightning_modules.distillation.drawing_views import make_views
from lightning_modules.distillation.recipe import DistillationRecipe
from lightning_modules.distillation.teacher import Teacher

Batch = tuple[torch.Tensor, torch.Tensor]
"""uint8 pixels (N, 3, S, S) and float16 targets (N, T, E)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkStore:
    """Groups of views with their targets in a folder; missing ones are computed."""

    folder: Path
    drawings_NCHW: np.ndarray
    """uint8 drawings on white, all of one size."""
    teacher: Teacher
    recipe: DistillationRecipe
    seed: int

    def load(self, chunk: int) -> Batch:
        """Return a group."""
        path = self.folder / f"views-{chunk:05d}.npz"
        if not path.is_file():
            self._compute(chunk, path)
        with np.load(path) as stored:
            return torch.from_numpy(stored["pixels"]), torch.from_numpy(stored["targets"])

    def _compute(self, chunk: int, path: Path) -> None:
        shape = self.recipe.shape
        views_NCHW = make_views(self.drawings_NCHW, self.recipe.views, seed=self.seed, chunk=chunk)
        targets = self.teacher.targets(views_NCHW, shape.grid)
        pixels = resize_pixels(views_NCHW, shape.image_size).mul(255).round().to(torch.uint8)
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, pixels=pixels.numpy(), targets=targets.numpy())


class ChunkedViews(IterableDataset[Batch]):
    """Batches from a step on: all groups in a new order per pass, rows in a new order per group."""

    def __init__(
        self, load: Callable[[int], Batch], recipe: DistillationRecipe, *, seed: int, start: int
    ) -> None:
        super().__init__()
        self._load, self._recipe, self._seed, self._start = load, recipe, seed, start

    def __iter__(self) -> Iterator[Batch]:
        """Yield one batch per step."""
        views, size = self._recipe.views, self._recipe.batch_size
        per_chunk = views.chunk_views // size
        loaded: tuple[int, Batch] | None = None
        for step in range(self._start, self._recipe.num_steps):
            turn, batch = divmod(step, per_chunk)
            passes, place = divmod(turn, views.num_chunks)
            if loaded is None or loaded[0] != turn:
                order = named_rng(self._seed, "distillation", "chunks", passes)
                chunk = int(order.permutation(views.num_chunks)[place])
                loaded = turn, self._load(chunk)
            rows = named_rng(self._seed, "distillation", "rows", turn).permutation(per_chunk * size)
            chosen = torch.from_numpy(rows[batch * size :][:size])
            pixels, targets = loaded[1]
            yield pixels[chosen], targets[chosen]


class DistillationData(lightning.LightningDataModule):
    """Data module that continues at the trainer's step."""

    def __init__(self, store: ChunkStore) -> None:
        super().__init__()
        self._store = store

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the batches from the trainer's step on."""
        step = self.trainer.global_step if self.trainer is not None else 0
        store = self._store
        views = ChunkedViews(store.load, store.recipe, seed=store.seed, start=step)
        return DataLoader(views, batch_size=None)

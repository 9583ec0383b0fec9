"""Stage kind `distilled_tower`: a small ViT of CLIP's class that imitates the embedded tower."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from callbacks.checkpoints import AtomicCheckpoint, latest_checkpoint
from callbacks.metrics_log import JsonlLogger
from callbacks.preemption import Preemption
from callbacks.watchdog import Watchdog
from datamodules.shards.source import Source, iterate_images
from lightning_modules.contrastive.training import EMPTY_NAME
from lightning_modules.distillation.data import ChunkStore, DistillationData
from lightning_modules.distillation.drawings import stack_drawings
from lightning_modules.distillation.module import DistillationModule
from lightning_modules.distillation.recipe import DistillationRecipe
from lightning_modules.distillation.saving import save_student
from lightning_modules.distillation.student import Student, normalise_pixels
from lightning_modules.distillation.teacher import Teacher, load_teacher
from pipeline.stages.base import Stage, StageContext
from pipeline.stages.tower import is_composed
from pipeline.trainer import checkpoint_cadence

_VIEWS_FOLDER = "views"
_SCALE_VIEWS = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistilledTowerStage(Stage):
    """A `CLIPVisionModel` trained to give the embeddings of a convolutional tower."""

    kind: ClassVar[str] = "distilled_tower"

    teacher: str
    """Folder of the tower that is imitated."""
    captions: tuple[str, ...]
    """Manifests of caption sources in the base language: drawings and their names."""
    drawings: tuple[str, ...]
    """Manifests of further drawings, of which only the images are used."""
    recipe: DistillationRecipe
    seed: int

    @property
    def manifests(self) -> tuple[str, ...]:
        """Manifests of all drawings."""
        return (*self.captions, *self.drawings)

    @property
    def weight_folders(self) -> tuple[str, ...]:
        """Folder of the teacher."""
        return (self.teacher,)

    def run(self, context: StageContext) -> None:
        """Train from the newest intact checkpoint, and save the student."""
        names, images = self._read_captions()
        for path in self.drawings:
            images += iterate_images(Path(path))
        teacher = load_teacher(Path(self.teacher), names)
        store = ChunkStore(
            folder=context.folder.path / _VIEWS_FOLDER,
            drawings_NCHW=stack_drawings(images),
            teacher=teacher,
            recipe=self.recipe,
            seed=self.seed,
        )
        student = Student(self.recipe.shape, embed_width=teacher.width, seed=self.seed)
        self._fit(context, student, store)
        student.eval()
        _normalise_token_scale(student, store)
        save_student(context.folder.scratch, student, names, teacher.names_KE)

    def _read_captions(self) -> tuple[list[str], list[bytes]]:
        """Return the names with that of an empty cell, and the drawings that are not composed."""
        sources = [Source(Path(path)) for path in self.captions]
        samples = [source.read(i) for source in sources for i in range(len(source))]
        singles = [s for s in samples if s.image is not None and not is_composed(s.key)]
        names = sorted({sample.turns[-1].content for sample in singles})
        return [*names, EMPTY_NAME], [s.image for s in singles if s.image is not None]

    def _fit(self, context: StageContext, student: Student, store: ChunkStore) -> None:
        teacher: Teacher = store.teacher
        module = DistillationModule(
            student, teacher.names_KE, self.recipe, logit_scale=teacher.logit_scale
        )
        config, folder = context.trainer, context.folder
        saved = AtomicCheckpoint(
            folder.checkpoints,
            cadence=checkpoint_cadence(config),
            keep=config.keep_checkpoints,
            keep_every_n_steps=config.keep_every_n_steps,
        )
        trainer = lightning.Trainer(
            accelerator=config.accelerator,
            devices=1,
            plugins=LightningEnvironment(),  # one process, also inside of a SLURM job
            max_steps=self.recipe.num_steps,
            max_epochs=-1,
            gradient_clip_val=self.recipe.optim.grad_clip or None,
            logger=JsonlLogger(folder.path, total_steps=self.recipe.num_steps),
            log_every_n_steps=config.log_every_n_steps,
            callbacks=[
                saved,
                Preemption(context.flag, saved),
                Watchdog(config.hung_after_s, report=context.on_hung),
            ],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder.path,
        )
        newest = latest_checkpoint(folder.checkpoints)
        path = newest.path if newest else None
        trainer.fit(module, datamodule=DistillationData(store), ckpt_path=path, weights_only=True)


@torch.inference_mode()
def _normalise_token_scale(student: Student, store: ChunkStore) -> None:
    """Scale tokens to unit mean square, so that a linear connector starts well."""
    pixels_NCHW = store.load(0)[0][:_SCALE_VIEWS]
    tokens_NPW = student.tokens(normalise_pixels(pixels_NCHW))
    student.scale_tokens(float(tokens_NPW.square().mean().rsqrt()))

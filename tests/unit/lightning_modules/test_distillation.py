"""Distilled towers: views, targets, the student's tokens, resumed training, saved files."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional
from transformers import CLIPVisionModel

from core.errors import CheckpointError, ConfigError, DataError
from lightning_modules.contrastive.views import NUM_CELLS
from lightning_modules.distillation.data import ChunkedViews, ChunkStore
from lightning_modules.distillation.drawing_views import make_views
from lightning_modules.distillation.drawings import stack_drawings
from lightning_modules.distillation.module import DistillationModule
from lightning_modules.distillation.naming import name_cells
from lightning_modules.distillation.recipe import (
    DistillationRecipe,
    DrawingViewsConfig,
    StudentShape,
)
from lightning_modules.distillation.saving import (
    NAMES_FILE,
    NAMING_HEAD,
    load_student,
    save_student,
)
from lightning_modules.distillation.student import Student, normalise_pixels
from lightning_modules.distillation.teacher import Teacher
from models.towers.vision_tower import VisionTowerConfig, load_vision_tower

COLOURS = ("red", "green", "blue", "orange")
SHAPE = StudentShape(image_size=32, patch_size=8, width=32, num_layers=2, num_heads=2, mlp_width=64)
VIEWS = DrawingViewsConfig(num_chunks=2, chunk_views=16)
RECIPE = DistillationRecipe(shape=SHAPE, views=VIEWS, num_steps=6, batch_size=8)
PLAIN = DrawingViewsConfig(
    num_chunks=1, chunk_views=12, max_rotation_degrees=0.0, max_shift=0.0, colour_jitter=0.0,
    tinted_share=0.0, coarse_share=0.0, mixed_share=0.0, scale_range=(1.0, 1.0),
)  # fmt: skip


class MeanColour(nn.Module):
    """Trunk whose features are the pixels, so that pooled cells are mean colours."""

    def forward_features(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        return pixels_NCHW


def disc(colour: str) -> bytes:
    image = Image.new("RGB", (48, 48), "white")
    ImageDraw.Draw(image).ellipse((6, 6, 42, 42), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def drawings() -> np.ndarray:
    return stack_drawings(map(disc, COLOURS))


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    names_KE = functional.normalize(torch.eye(5, 3) - 0.3, dim=-1)
    return Teacher(trunk=MeanColour(), head=nn.Identity(), names_KE=names_KE, logit_scale=10.0)


def make_store(folder: Path, drawings: np.ndarray, teacher: Teacher) -> ChunkStore:
    return ChunkStore(folder=folder, drawings_NCHW=drawings, teacher=teacher, recipe=RECIPE, seed=0)


def test_views_are_a_function_of_seed_and_chunk(drawings: np.ndarray) -> None:
    first, again, other, chunk = (
        make_views(drawings, VIEWS, seed=seed, chunk=number)
        for seed, number in ((1, 0), (1, 0), (2, 0), (1, 1))
    )
    assert first.shape == (16, 3, 192, 192)
    assert 0.0 <= first.min() <= first.max() <= 1.0
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, chunk)


def test_a_view_without_augmentation_is_the_drawing_itself(drawings: np.ndarray) -> None:
    config = DrawingViewsConfig(**{**_fields(PLAIN), "scene_share": 0.0})
    views = make_views(drawings, config, seed=0, chunk=0)
    originals = torch.from_numpy(drawings).float() / 255
    shown = functional.interpolate(views, size=96, mode="area")
    for view in shown:
        mirrored = torch.stack([originals, originals.flip(-1)]).flatten(0, 1)
        assert (mirrored - view).abs().mean(dim=(1, 2, 3)).min() < 0.02


def test_scenes_show_one_to_four_drawings_in_their_quadrants(drawings: np.ndarray) -> None:
    config = DrawingViewsConfig(**{**_fields(PLAIN), "scene_share": 1.0, "chunk_views": 40})
    views = make_views(drawings, config, seed=0, chunk=0)
    quadrants = functional.adaptive_avg_pool2d(views, 2).flatten(2).min(dim=1).values
    num_shown = (quadrants < 0.98).sum(dim=1)
    assert set(num_shown.tolist()) == {1, 2, 3, 4}


def _fields(config: DrawingViewsConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_batches_resume_at_any_step_and_the_teacher_sees_a_chunk_once(
    tmp_path: Path, drawings: np.ndarray, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path, drawings, teacher)
    computed = []
    monkeypatch.setattr(
        ChunkStore, "_compute", _counted(ChunkStore._compute, computed), raising=True
    )
    whole = list(ChunkedViews(store.load, RECIPE, seed=0, start=0))
    assert len(whole) == RECIPE.num_steps
    assert sorted(computed) == [0, 1]
    for start in (1, 2, 5):
        rest = list(ChunkedViews(store.load, RECIPE, seed=0, start=start))
        assert len(rest) == RECIPE.num_steps - start
        for (pixels, targets), (expected, wanted) in zip(rest, whole[start:], strict=True):
            assert torch.equal(pixels, expected)
            assert torch.equal(targets, wanted)
    assert sorted(computed) == [0, 1]
    # A pass shows every view of every chunk once.
    seen = torch.cat([pixels for pixels, _ in whole[:4]]).flatten(1)
    stored = torch.cat([store.load(chunk)[0] for chunk in range(2)]).flatten(1)
    assert torch.equal(seen.unique(dim=0), stored.unique(dim=0))


def _counted(compute: object, computed: list[int]) -> object:
    def count(self: ChunkStore, chunk: int, path: Path) -> None:
        computed.append(chunk)
        compute(self, chunk, path)  # type: ignore[operator]

    return count


def test_targets_are_the_teachers_cells_and_tokens(
    tmp_path: Path, drawings: np.ndarray, teacher: Teacher
) -> None:
    pixels, targets = make_store(tmp_path, drawings, teacher).load(0)
    assert pixels.dtype == torch.uint8
    assert targets.shape == (16, NUM_CELLS + SHAPE.grid**2, 3)
    assert torch.allclose(targets.float().norm(dim=-1), torch.ones(()), atol=1e-2)


def test_the_tokens_are_those_that_llava_reads(tmp_path: Path) -> None:
    student = Student(SHAPE, embed_width=3, seed=0).eval()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        ours = student.tokens(normalise_pixels(pixels))
        states = student.vision(normalise_pixels(pixels), output_hidden_states=True).hidden_states
    assert len(states) == SHAPE.num_layers + 2
    assert torch.allclose(ours, states[-2][:, 1:], atol=1e-5)
    assert torch.allclose(states[-1], states[-2], atol=1e-6)  # the last block is the identity


def test_scaled_tokens_keep_their_embeddings() -> None:
    student = Student(SHAPE, embed_width=3, seed=0).eval()
    pixels = normalise_pixels(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    with torch.inference_mode():
        tokens, embedded = student.tokens(pixels), student.embed(pixels)
        student.scale_tokens(3.0)
        assert torch.allclose(student.tokens(pixels), 3.0 * tokens, rtol=1e-3, atol=1e-3)
        assert torch.allclose(student.embed(pixels), embedded, atol=1e-3)


def test_the_loss_is_zero_for_the_teachers_own_embeddings(teacher: Teacher) -> None:
    student = Student(SHAPE, embed_width=3, seed=0)
    module = DistillationModule(student, teacher.names_KE, RECIPE, logit_scale=10.0)
    module.log_dict = lambda _: None  # type: ignore[method-assign]
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        own = student.embed(normalise_pixels(pixels))
        assert module.training_step((pixels, own), 0) == pytest.approx(0.0, abs=1e-5)
        assert module.training_step((pixels, -own), 0) > 1.0


def test_a_saved_student_is_a_tower_of_the_suite(tmp_path: Path, teacher: Teacher) -> None:
    student = Student(SHAPE, embed_width=3, seed=0).eval()
    names = ["a", "b", "c", "d", "nothing"]
    save_student(tmp_path, student, names, teacher.names_KE)
    assert CLIPVisionModel.from_pretrained(tmp_path).dtype == torch.float16
    assert json.loads((tmp_path / NAMES_FILE).read_text()) == names
    assert (tmp_path / NAMING_HEAD).is_file()
    config = VisionTowerConfig(library="transformers", path=str(tmp_path))
    tower = load_vision_tower(config)
    assert (tower.num_image_tokens, tower.width) == (16, 32)
    pixels = torch.stack([tower.transform(disc(colour)) for colour in COLOURS])
    with torch.inference_mode():
        expected = student.tokens(normalise_pixels(pixels))
    assert torch.allclose(tower(pixels), expected, atol=2e-2)
    assert tower.clip_vision_config()["num_hidden_layers"] == SHAPE.num_layers + 1
    similarities = name_cells(student, teacher.names_KE, pixels)
    assert similarities.shape == (4, NUM_CELLS, 5)
    loaded, found, names_KE = load_student(tmp_path)
    assert found == names
    assert torch.allclose(name_cells(loaded, names_KE, pixels), similarities, atol=2e-2)
    (tmp_path / NAMES_FILE).unlink()
    with pytest.raises(CheckpointError, match="train the tower again"):
        load_student(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StudentShape(image_size=120, patch_size=24), "multiple of 48"),
        (lambda: StudentShape(width=100, num_heads=3), "not divisible"),
        (lambda: DrawingViewsConfig(scene_share=1.5), "views.scene_share"),
        (lambda: DrawingViewsConfig(num_chunks=0), "views.num_chunks"),
        (lambda: DistillationRecipe(batch_size=100), "does not divide"),
        (lambda: DistillationRecipe(num_steps=0), "num_steps"),
    ],
)
def test_an_impossible_recipe_is_an_error(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_no_drawings_are_an_error() -> None:
    with pytest.raises(DataError, match="needs drawings"):
        stack_drawings([])

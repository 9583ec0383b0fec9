"""A miniature study of a tiny ready-made model, with images of ten shapes."""

import io
from pathlib import Path

import pytest
from PIL import Image

from experiments import run
from experiments.cli import request_of
from experiments.run_steps.planning import make_plan
from tests.support import small_world as worlds
from tests.support.models.foreign_classes import write_checkpoint
from tests.support.ranks import NUM_STEPS, World

PROFILE = "ready"
CELL = "share40_txt"
_SHAPES = [(16 + 6 * i, 16 + (i * 23) % 50) for i in range(10)]
_CHANGES = {
    "cell: {backbone: general}": "cell: {backbone: vlm, stages: instruct_only}",
    "model:\n": "model:\n  family: hf\n",
    "backbones:\n": "backbones:\n  vlm: {path: data/vlm, template: own}\n",
    "prompt_style: shared_prefix": "prompt_style: chat",
    "micro_batch_tokens: 192\n  row_tokens: 96": "micro_batch_tokens: 1024\n  row_tokens: 512",
    "num_steps: 60": f"num_steps: {NUM_STEPS}",
}


def sized_image(seed: int) -> bytes:
    """Return an image of one of ten shapes."""
    image = Image.open(io.BytesIO(_square(seed))).convert("RGB")
    buffer = io.BytesIO()
    image.resize(image_shape(seed)).save(buffer, "PNG")
    return buffer.getvalue()


def image_shape(seed: int) -> tuple[int, int]:
    """Return width and height of the image with this number."""
    return _SHAPES[seed % len(_SHAPES)]


_square = worlds.image


def build_ready_world(folder: Path, name: str) -> World:
    """Fill a folder, which is the working directory, and plan its cell.

    Args:
        folder: The folder.
        name: Name of a class in `tests.support.models.foreign_classes`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worlds, "image", sized_image)
        worlds.build_world(folder)
    write_checkpoint(name, folder / "data" / "vlm")
    text = (folder / "configs" / f"{worlds.PROFILE}.yaml").read_text()
    for old, new in _CHANGES.items():
        if old not in text:
            raise ValueError(f"the profile has no {old!r}")
        text = text.replace(old, new)
    (folder / "configs" / f"{PROFILE}.yaml").write_text(text)
    arguments = run.build_parser().parse_args(grid_arguments("one"))
    return World(folder=folder, graph=make_plan(request_of(arguments)).graph)


def grid_arguments(root: str, *more: str) -> tuple[str, ...]:
    """Return the command line of the cell."""
    grid = ("--exp", "mix_ablation", "--profile", PROFILE, "--only", CELL)
    return (*grid, "--jobs", "1", "--root", root, *more)

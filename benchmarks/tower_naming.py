"""Zero-shot naming of the benchmark's art style by the embedded tower and by a distilled one.

Single images are the 240 that the benchmark asks for their name. Scenes are composed of them: one
to four objects in a 2x2 layout, as in the data. Both towers see the same images.

    python -m benchmarks.tower_naming --student data/small/models/tower_vit
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from core.rng import named_rng
from evaluation.benchmarks.items import load_benchmark
from lightning_modules.contrastive.training import EMPTY_NAME
from lightning_modules.contrastive.views import NUM_CELLS, resize_pixels
from lightning_modules.distillation.drawing_views import CANVAS_PIXELS
from lightning_modules.distillation.drawings import stack_drawings
from lightning_modules.distillation.naming import name_cells
from lightning_modules.distillation.saving import load_student
from lightning_modules.distillation.teacher import load_teacher

TEACHER = Path("data/embedded/models/tower")
BENCHMARK = Path("data/embedded/benchmark_test.manifest.json")
NUM_SCENES = 500

_SCENE_PIXELS = 128
_TOP = 5


def make_scenes(singles_NCHW: torch.Tensor, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Compose scenes; returns RGB values in 0..1 and the number of the object of each quadrant.

    An empty quadrant has the number after the last object.
    """
    rng = named_rng(seed, "tower_naming", "scenes")
    half = _SCENE_PIXELS // 2
    tiles_NCHW = torch.cat([resize_pixels(singles_NCHW, half), torch.ones(1, 3, half, half)])
    chosen = rng.integers(len(singles_NCHW), size=(NUM_SCENES, 4))
    num_shown = rng.integers(1, 5, size=(NUM_SCENES, 1))
    is_shown = rng.random((NUM_SCENES, 4)).argsort(axis=1) < num_shown
    labels = np.where(is_shown, chosen, len(singles_NCHW))
    tiles = tiles_NCHW[torch.from_numpy(labels.reshape(-1))]
    scenes = tiles.view(NUM_SCENES, 2, 2, 3, half, half).permute(0, 3, 1, 4, 2, 5)
    return scenes.reshape(NUM_SCENES, 3, _SCENE_PIXELS, _SCENE_PIXELS), labels


def accuracies(
    single_NPK: torch.Tensor, scene_NPK: torch.Tensor, truth: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Return accuracies in percent of similarities to the names; the last name is an empty cell.

    Args:
        single_NPK: Similarities of the cells of single images.
        scene_NPK: Similarities of the cells of scenes.
        truth: Number of the name of every single image.
        labels: Number of the name in every quadrant of the scenes.
    """
    best = single_NPK[:, 0, :-1].topk(_TOP).indices.numpy()
    quadrants = scene_NPK[:, 1:NUM_CELLS].argmax(dim=-1).numpy()
    nothing = single_NPK.shape[-1] - 1
    has_object = labels != nothing
    return {
        "whole_top1": 100 * float((best[:, 0] == truth).mean()),
        "whole_top5": 100 * float((best == truth[:, None]).any(axis=1).mean()),
        "quadrant_object": 100 * float((quadrants == labels)[has_object].mean()),
        "empty_or_not": 100 * float(((quadrants == nothing) == ~has_object).mean()),
    }


def main() -> None:
    """Measure both towers and print the accuracies as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", type=Path, help="folder of a distilled tower")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    items = [i for i in load_benchmark(BENCHMARK, ["en"]) if i.question_type == "name"]
    names = sorted({item.answers[0] for item in items})
    truth = np.array([names.index(item.answers[0]) for item in items])
    stacked = stack_drawings(item.image for item in items)
    singles_NCHW = torch.from_numpy(stacked).float() / 255.0
    scenes_NCHW, chosen = make_scenes(singles_NCHW, options.seed)
    labels = np.append(truth, len(names))[chosen]
    teacher = load_teacher(TEACHER, [*names, EMPTY_NAME])
    similarities = []
    for images in (singles_NCHW, scenes_NCHW):
        cells_NTE = teacher.targets(resize_pixels(images, CANVAS_PIXELS), 1).float()
        similarities.append(cells_NTE[:, :NUM_CELLS] @ teacher.names_KE.T)
    found = {"teacher": accuracies(*similarities, truth, labels)}
    if options.student:
        student, _, _ = load_student(options.student)
        size = student.shape.image_size
        similarities = [
            name_cells(
                student,
                teacher.names_KE,
                resize_pixels(images, size).mul(255).round().to(torch.uint8),
            )
            for images in (singles_NCHW, scenes_NCHW)
        ]
        found["student"] = accuracies(*similarities, truth, labels)
    counts = {"singles": len(truth), "quadrants_with_object": int((labels != len(names)).sum())}
    print(json.dumps({"counts": counts, **found}, indent=1))


if __name__ == "__main__":
    main()

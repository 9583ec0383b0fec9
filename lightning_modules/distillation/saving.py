"""Distilled towers in Hugging Face's format, with their naming head."""

import json
from pathlib import Path

import safetensors.torch
import torch
from transformers import CLIPVisionConfig

from core.errors import CheckpointError
from core.io.files import atomic_write_bytes, atomic_write_text
from core.io.reading import reading
from lightning_modules.distillation.recipe import StudentShape
from lightning_modules.distillation.student import MEAN, STD, Student

NAMING_HEAD = "naming_head.safetensors"
"""Projection of the mean of tokens to the space of the teacher's text tower, and the embeddings of
the names in it."""
NAMES_FILE = "names.json"

_BICUBIC = 3


def save_student(folder: Path, student: Student, names: list[str], names_KE: torch.Tensor) -> None:
    """Write a folder that `CLIPVisionModel.from_pretrained` loads (float16), and the naming head.

    Args:
        folder: Existing folder.
        student: Trained student.
        names: English names, in the order of their embeddings.
        names_KE: Unit embeddings of the names.
    """
    config = student.vision.config.to_dict()
    config["architectures"] = ["CLIPVisionModel"]
    size = student.shape.image_size
    images = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": _BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "do_convert_rgb": True,
    }
    head = {f"projection.{name}": value for name, value in student.projection.state_dict().items()}
    head["names"] = names_KE
    student.vision.half().save_pretrained(folder)
    student.vision.float()
    atomic_write_text(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    atomic_write_text(folder / "preprocessor_config.json", json.dumps(images, indent=2) + "\n")
    atomic_write_text(folder / NAMES_FILE, json.dumps(names, ensure_ascii=False, indent=0) + "\n")
    halves = {name: value.detach().half().contiguous() for name, value in head.items()}
    atomic_write_bytes(folder / NAMING_HEAD, safetensors.torch.save(halves))


def load_student(folder: Path) -> tuple[Student, list[str], torch.Tensor]:
    """Load a saved student, its English names and their unit embeddings.

    Raises:
        CheckpointError: If a file is missing or damaged.
    """
    with reading(folder, fix="train the tower again", error_class=CheckpointError):
        config = CLIPVisionConfig.from_pretrained(folder)
        shape = StudentShape(
            image_size=config.image_size,
            patch_size=config.patch_size,
            width=config.hidden_size,
            num_layers=config.num_hidden_layers - 1,
            num_heads=config.num_attention_heads,
            mlp_width=config.intermediate_size,
        )
        student = Student(shape, embed_width=config.projection_dim, seed=0)
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        student.vision.load_state_dict({name: value.float() for name, value in weights.items()})
        head = safetensors.torch.load_file(folder / NAMING_HEAD)
        names_KE = head.pop("names").float()
        student.projection.load_state_dict(
            {name.removeprefix("projection."): value.float() for name, value in head.items()}
        )
        names: list[str] = json.loads((folder / NAMES_FILE).read_text(encoding="utf-8"))
    return student.eval(), names, names_KE

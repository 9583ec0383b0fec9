"""Export of a trained cell of any architecture as a folder that only this project loads.

It is for architectures without a counterpart among the classes of transformers. The folder holds
the language model as a stock model of transformers, the connector in our format of weights, and the
frozen tower as its library stores it. It depends on no store, profile or grid.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from configuration.mixture import trained_languages
from configuration.vlm_spec import VlmSpec
from core.config import dump_config, load_config, to_plain
from core.errors import CheckpointError, ConfigError
from core.io.files import atomic_write_text, use_umask
from core.io.reading import reading
from core.rng import torch_generator
from evaluation.asking import ASKING_FILE, AskingConfig
from models.freezing import cast_all
from models.language.adapters import TuningConfig
from models.language.language_model import save_language_model
from models.weights import save_weights
from pipeline.assemble import WEIGHTS, VlmParts, assemble
from serving.cell import TrainedCell, load_cell

MODEL_FILE = "irudimen.yaml"
"""File that describes an export; the paths in it are relative to the folder."""
_FORMAT = "irudimen-model-1"
_LANGUAGE_MODEL, _TOWER = "language_model", "tower"
_NUM_PROBES = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnModel:
    """Description of an export."""

    format: str
    """Version of the format."""
    cell: str
    """Id of the cell."""
    languages: list[str]
    """Base language, target language, and a second target language if the cell has one."""
    spec: VlmSpec
    """Parts of the model."""


def export_own(cell: TrainedCell, folder: Path, *, dtype: torch.dtype) -> None:
    """Write a cell, load it again, compare it with our model, and rename it into place.

    Args:
        cell: A trained cell.
        folder: New folder of the export; it is not created if the check fails.
        dtype: Type of the weights in the files.

    Raises:
        ConfigError: If the folder exists.
        CheckpointError: If the cell is not finished, or the export differs from our model.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists; choose a new folder or remove it")
    parts = load_cell(cell, torch.device("cpu"))
    if not isinstance(parts, VlmParts):
        raise ConfigError(
            f"cell '{cell.cell_id}' is a ready-made model, which transformers loads; use --to hf"
        )
    part_folder = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part_folder, ignore_errors=True)
    part_folder.mkdir(parents=True)
    try:
        _write(part_folder, cell, parts, dtype)
        _check(parts, load_own(part_folder, torch.device("cpu")))
        use_umask(part_folder)
        part_folder.rename(folder)
    finally:
        shutil.rmtree(part_folder, ignore_errors=True)


def describe_own(folder: Path) -> OwnModel:
    """Read the description of an export, with the paths of its parts.

    Raises:
        CheckpointError: If the folder is no export, or of another version.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {MODEL_FILE}; give a folder of --to irudimen")
    with reading(path, fix="export the cell again", error_class=CheckpointError):
        described = load_config(OwnModel, path)
    if described.format != _FORMAT:
        raise CheckpointError(f"{path} has format '{described.format}', expected '{_FORMAT}'")
    return dataclasses.replace(described, spec=_relocated(described.spec, folder))


def load_own(folder: Path, device: torch.device) -> VlmParts:
    """Load an export in float32, in evaluation mode.

    Raises:
        CheckpointError: If a file is missing or damaged.
    """
    parts = assemble(
        describe_own(folder).spec,
        features=None,
        tuning=TuningConfig(),
        trains_language_model=False,
        device=device,
        trained=[folder],
    )
    parts.model.eval().to(device)
    return parts


def _write(folder: Path, cell: TrainedCell, parts: VlmParts, dtype: torch.dtype) -> None:
    cast_all(parts.model.connector, dtype)
    cast_all(parts.model.language_model, dtype)
    save_weights(folder / WEIGHTS, {"connector": parts.model.connector})
    save_language_model(folder / _LANGUAGE_MODEL, parts.model.language_model, dtype=dtype)
    # What was rounded is compared with the files in float32.
    cast_all(parts.model.connector, torch.float32)
    cast_all(parts.model.language_model, torch.float32)
    parts.chat.tokenizer.save_pretrained(folder / _LANGUAGE_MODEL)
    spec, tower = cell.evaluation.model, cell.evaluation.model.tower
    if tower.path:
        shutil.copytree(tower.path, folder / _TOWER)
        tower = dataclasses.replace(tower, path=_TOWER)
    language_model = dataclasses.replace(spec.language_model, path=_LANGUAGE_MODEL, revision="")
    described = OwnModel(
        format=_FORMAT,
        cell=cell.cell_id,
        languages=list(trained_languages(cell.config)),
        spec=dataclasses.replace(spec, tower=tower, language_model=language_model),
    )
    atomic_write_text(folder / MODEL_FILE, dump_config(described))
    atomic_write_text(folder / ASKING_FILE, dump_config(AskingConfig.of(cell.evaluation.settings)))
    addresses: dict[str, Any] = {kind: node.address for kind, node in cell.nodes.items()}
    listing = json.dumps({"stages": addresses, "spec": to_plain(spec)}, indent=1)
    atomic_write_text(folder / "provenance.json", listing + "\n")


def _relocated(spec: VlmSpec, folder: Path) -> VlmSpec:
    """Return the parts of an export with paths that hold in the working directory."""
    tower = spec.tower
    if tower.path:
        tower = dataclasses.replace(tower, path=str(folder / tower.path))
    place = str(folder / spec.language_model.path)
    language_model = dataclasses.replace(spec.language_model, path=place)
    return dataclasses.replace(spec, tower=tower, language_model=language_model)


@torch.no_grad()
def _check(ours: VlmParts, loaded: VlmParts) -> None:
    """Compare parameters, and features of an image of noise.

    Raises:
        CheckpointError: If they differ.
    """
    pairs = zip(
        sorted(ours.model.state_dict().items()),
        sorted(loaded.model.state_dict().items()),
        strict=True,
    )
    for (name, expected), (other, found) in pairs:
        if name != other or not torch.equal(expected.cpu(), found.cpu()):
            raise CheckpointError(f"the export differs from the trained model in '{name}'")
    if ours.model.tower is None or loaded.model.tower is None:
        raise ValueError("a model was built without its tower")
    size = ours.model.tower.transform.size
    generator = torch_generator(0, "own export", "probe")
    pixels_NCHW = torch.randint(0, 256, (_NUM_PROBES, 3, size, size), generator=generator)
    pixels_NCHW = pixels_NCHW.to(torch.uint8)
    if not torch.equal(ours.model.tower(pixels_NCHW), loaded.model.tower(pixels_NCHW)):
        raise CheckpointError("the tower of the export gives other features than ours")

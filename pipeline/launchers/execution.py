"""Execution settings of a stage run, which a launcher writes and the worker reads."""

import dataclasses
import json

from configuration.trainer import TrainerConfig
from core.config import load_config
from core.io.files import atomic_write_text
from pipeline.store.store import StageFolder

_EXECUTION_FILE = "execution.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """Execution settings of a stage run; not part of its address."""

    root: str
    """Output folder of all runs."""
    num_threads: int
    """CPU threads."""
    trainer: TrainerConfig
    gpus: str = ""
    """Value of CUDA_VISIBLE_DEVICES; empty leaves the variable unchanged."""


def write_execution(folder: StageFolder, execution: Execution) -> None:
    """Write the settings into the folder of a stage run."""
    settings = json.dumps(dataclasses.asdict(execution))
    atomic_write_text(folder.path / _EXECUTION_FILE, settings)


def read_execution(folder: StageFolder) -> Execution:
    """Read the settings that `write_execution` has written."""
    return load_config(Execution, folder.path / _EXECUTION_FILE)

"""What several tests of this folder share, because it takes long to make."""

from pathlib import Path

import pytest

from tests.support import small_world as worlds

LOUD = ("--set", "instruct.optim.lr=0.02", "retention.tasks=[text:text_eu]")
"""A rate at which the tiny model learns to say something; and what it knows without images."""


@pytest.fixture(scope="session")
def trained_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose one cell has been trained by the real command."""
    folder = worlds.build_world(tmp_path_factory.mktemp("trained"))
    code, output = worlds.run(folder, worlds.grid_arguments("mlruns", *LOUD))
    assert code == 0, output
    return folder

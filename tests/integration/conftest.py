"""Fixtures that several tests of this folder share because they are slow."""

from pathlib import Path

import pytest

from tests.support import small_world as worlds

LOUD = ("--set", "instruct.optim.lr=0.02", "retention.tasks=[text:text_eu]")
"""A learning rate at which the tiny model learns to answer, and a retention task."""


@pytest.fixture(scope="session")
def trained_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """World whose only cell was trained by the real command."""
    folder = worlds.build_world(tmp_path_factory.mktemp("trained"))
    code, output = worlds.run(folder, worlds.grid_arguments("mlruns", *LOUD))
    assert code == 0, output
    return folder

"""A full disk during a training: views are warnings, results one error, and the rerun resumes."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store.store import StageFolder
from tests.integration.conftest import LOUD
from tests.support import small_world as worlds

pytestmark = pytest.mark.slow


@pytest.fixture
def world(trained_world: Path, tmp_path: Path) -> Path:
    """A copy of the trained world."""
    return Path(shutil.copytree(trained_world, tmp_path / "world"))


@pytest.fixture
def disk(world: Path) -> Iterator[Path]:
    """A small disk of its own at `disk` in the world."""
    folder = world / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, *, free_bytes: int) -> Path:
    """Write a file that leaves only some bytes of the disk."""
    path = disk / "filler"
    size = shutil.disk_usage(disk).free - free_bytes
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return path


def test_a_full_disk_during_training(world: Path, disk: Path) -> None:
    arguments = worlds.grid_arguments("disk", *LOUD, "--set", "trainer.retries=0")
    process = worlds.start(world, *arguments)
    while not list(disk.glob("store/instruct/*/checkpoints/step=*")):
        assert process.poll() is None, process.communicate()
    filler = fill(disk, free_bytes=0)
    code, output = worlds.finish(process)
    assert code == 2, output
    folder = StageFolder(worlds.stage_folder(disk, "instruct"))
    assert "/report/cells.csv: No space left on device; free space and rerun" in output
    assert "status.json can't be written (No space left on device)" in output
    assert "database or disk is full" in output
    assert "Traceback" not in output
    assert folder.safe_step() > 0, "a checkpoint is kept"
    filler.unlink()
    code, output = worlds.run(world, arguments)
    assert code == 0, output
    calm = worlds.stage_folder(world / "mlruns", "instruct")
    assert worlds.series(folder.path) == worlds.series(calm)
    seals = [(path / "result" / "complete.json").read_text() for path in (folder.path, calm)]
    assert seals[0] == seals[1]

"""A plan reads each weights file once, however many cells and stages use it."""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from experiments import run
from tests.support import small_world as worlds

NUM_BYTES = 64 << 20
GRID = ("--exp", "full_grid", "--profile", worlds.PROFILE, "--root", "results", "--dry-run")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = worlds.build_world(tmp_path_factory.mktemp("world"))
        patch.chdir(folder)
        yield folder


def bytes_read(*arguments: str) -> int:
    """Return how many bytes this process reads while it plans the grid."""
    before = _read_counter()
    with redirect_stdout(io.StringIO()):
        assert run.main([*GRID, *arguments]) == 0
    return _read_counter() - before


def _read_counter() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


@pytest.mark.slow
def test_a_plan_reads_the_weights_of_a_backbone_once(world: Path) -> None:
    """Every cell and stage kind asks for the same weights, here through two paths."""
    linked = ("backbones.other.path=linked", "backbones.other.template=embedded")
    (world / "linked").symlink_to(world / "data" / "lm")
    bytes_read("--set", *linked)  # imports, and token lengths that the first plan measures
    without = bytes_read("--set", *linked)
    with (world / "data" / "lm" / "more.safetensors").open("wb") as weights:
        weights.truncate(NUM_BYTES)
    first = bytes_read("--set", *linked) - without
    assert 0.99 * NUM_BYTES < first < 1.1 * NUM_BYTES
    again = bytes_read("--set", *linked) - without
    assert again < 0.1 * NUM_BYTES, "unchanged files are not read again by the same process"

"""A grid in an unusual environment: odd folder names, links, umask, no home and no TMPDIR."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from reporting.tracking.client import MlflowClient
from reporting.tracking.local_store import default_store
from tests.support import small_world as worlds

pytestmark = pytest.mark.slow
ODD_NAME = "o\u02bbn c\u02bch #1 50% 'a' \"b\" ñ \u65e5\u672c"


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_a_grid_in_an_unusual_environment(tmp_path: Path, strict_umask: None) -> None:
    world = worlds.build_world(tmp_path)
    (tmp_path / "elsewhere" / ODD_NAME).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    root = Path("link") / ODD_NAME
    variables = {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "LOGNAME": "", "USER": ""}
    # As in the shell of a rank of another job: every stage run took itself for its second rank.
    variables |= {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "nowhere"}
    arguments = worlds.grid_arguments(str(root), "--name", "o\u02bbn")
    process = worlds.start(world, *arguments, variables=variables, is_fresh=True)
    code, output = worlds.finish(process)
    assert code == 0, output
    assert "Traceback" not in output
    assert "can't be" not in output
    for path in (tmp_path / "elsewhere").rglob("*"):
        mode, is_folder = stat.S_IMODE(path.stat().st_mode), path.is_dir()
        assert mode & 0o777 == (0o750 if is_folder else 0o640), path
    client = MlflowClient(default_store(world / root))
    (experiment,) = client.search_experiments(filter_string="name = 'mix_ablation-tiny'")
    runs = client.search_runs([experiment.experiment_id])
    assert sum(run.info.run_name == "o\u02bbn (grid)" for run in runs) == 1
    assert {run.info.status for run in runs} == {"FINISHED"}

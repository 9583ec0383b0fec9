"""No garbage is collected while libraries are imported, and the usual amount afterwards."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.process.loading import without_collection

_COMMAND = """
from core.process.command import catch_user_errors
import gc, sys
print(gc.isenabled())
@catch_user_errors
def main():
    print(gc.isenabled(), gc.get_freeze_count() > 1000)
    return 0
sys.exit(main())
"""
_REPOSITORY = Path(__file__).parents[4]


def _fail_to_import() -> None:
    with without_collection():
        with without_collection():
            assert not gc.isenabled()
        assert not gc.isenabled(), "the outer context goes on"
        raise ImportError


def test_collection_continues_with_the_same_thresholds_after_an_import_that_fails() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with pytest.raises(ImportError):
        _fail_to_import()
    assert gc.isenabled()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() >= frozen


def test_a_cycle_that_was_created_later_is_collected() -> None:
    with without_collection():
        pass
    cycle: list[object] = []
    cycle.append(cycle)
    del cycle
    assert gc.collect() > 0


def test_a_command_imports_without_collection_and_works_with_it(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "__init__.py").touch()
    (tmp_path / "evaluation" / "example.py").write_text(_COMMAND)
    words = [sys.executable, "-m", "evaluation.example"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{_REPOSITORY}"}
    found = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["False", "True", "True"]

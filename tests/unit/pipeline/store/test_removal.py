"""Removal and pruning, with a kill before every change of a file."""

import multiprocessing
import re
import shutil
from pathlib import Path

import pytest

from configuration.axes import name_cells
from configuration.run_config import RunConfig
from core.config import load_config
from core.errors import ConfigError, DataError
from core.io.files import locked
from experiments.grids import mix_ablation
from pipeline.store.inventory import Inventory
from pipeline.store.locks import changing_store, using_store
from pipeline.store.removal import execute, plan_prune, plan_removal
from tests.unit.pipeline.store.kills import contents, make_world, run_killed

_NEEDED = {
    "f0f0f0f0", "a1a1a1a1", "11111111", "e1e1e1e1", "22222222", "e2e2e2e2", "a3a3a3a3", "33333333",
}  # fmt: skip
_LEFTOVER = "store/evaluate/e1e1e1e1/checkpoints/partial_results.jsonl"


@pytest.fixture
def world(tmp_path):
    return make_world(tmp_path / "runs")


def prune(root):
    with changing_store(root):
        execute(root, plan_prune(Inventory.of(root)))


def test_prune_deletes_what_no_grid_needs_and_nothing_else(world):
    before = contents(world, _NEEDED)
    removal = plan_prune(Inventory.of(world))
    assert [stage.address for stage in removal.stages] == ["0fffffff", "0eeeeeee", "0ddddddd"]
    prune(world)
    del before[_LEFTOVER]
    assert contents(world) == before
    assert plan_prune(Inventory.of(world)).paths == []


@pytest.mark.slow
def test_no_kill_of_prune_loses_what_a_grid_needs(world, tmp_path):
    needed = contents(world, _NEEDED)
    del needed[_LEFTOVER]
    kills = 0
    for at in range(10_000):
        root = tmp_path / f"copy{at}"
        shutil.copytree(world, root)
        was_killed = run_killed(lambda root=root: prune(root), at)
        kept = contents(root, _NEEDED)
        kept.pop(_LEFTOVER, None)
        assert kept == needed, at
        remaining = Inventory.of(root).stages.keys() - _NEEDED
        # What depends on a stage run is gone before it.
        assert sorted(remaining) in ([], ["0ddddddd"], ["0ddddddd", "0eeeeeee"],
                                     ["0ddddddd", "0eeeeeee", "0fffffff"]), at  # fmt: skip
        prune(root)
        assert contents(root) == needed, at
        assert not (root / "store" / ".trash").exists()
        shutil.rmtree(root)
        if not was_killed:
            break
        kills += 1
    assert kills > 20


@pytest.mark.slow
def test_no_kill_of_a_removal_leaves_half_a_result_or_touches_others(world, tmp_path):
    removed = ["e2e2e2e2", "22222222"]  # in this order
    parts = {address: contents(world, {address}) for address in _NEEDED}
    others = contents(world, _NEEDED - set(removed))
    kills = 0
    for at in range(10_000):
        root = tmp_path / f"copy{at}"
        shutil.copytree(world, root)

        def work(root=root):
            with changing_store(root):
                execute(root, plan_removal(Inventory.of(root), "one", ["share20"]))

        was_killed = run_killed(work, at)
        assert contents(root, _NEEDED - set(removed)) == others, at
        left = [a for a in removed if a in Inventory.of(root).stages]
        assert left in (removed, removed[1:], []), at
        for address in left:
            assert contents(root, {address}) == parts[address], at
        prune(root)
        assert not (root / "store" / ".trash").exists()
        shutil.rmtree(root)
        if not was_killed:
            break
        kills += 1
    assert kills > 10
    assert left == []


def test_a_cell_is_removed_with_what_only_it_needs(world):
    removal = plan_removal(Inventory.of(world), "one", ["share20"])
    assert [stage.address for stage in removal.stages] == ["e2e2e2e2", "22222222"]
    assert {stage.address for stage in removal.kept} == {"a1a1a1a1", "f0f0f0f0"}
    shared = plan_removal(Inventory.of(world), "one", ["share0"])
    assert shared.stages == ()


def test_a_stage_is_removed_with_everything_computed_from_it(world):
    removal = plan_removal(Inventory.of(world), "one", ["share0"], stage_kind="align")
    found = [stage.address for stage in removal.stages]
    assert set(found) == {"a1a1a1a1", "11111111", "22222222", "e1e1e1e1", "e2e2e2e2"}
    assert found[-1] == "a1a1a1a1"


def test_a_grid_is_removed_without_the_results_of_others(world):
    removal = plan_removal(Inventory.of(world), "two")
    execute(world, removal)
    left = Inventory.of(world)
    assert list(left.grids) == ["one"]
    assert {"11111111", "f0f0f0f0"} <= left.stages.keys()
    assert not {"33333333", "a3a3a3a3"} & left.stages.keys()


@pytest.mark.parametrize(
    ("name", "cells", "kind", "error"),
    [
        ("on", [], "", DataError),
        ("one", ["share2"], "", ConfigError),
        ("one", ["share20"], "instruc", ConfigError),
    ],
)
def test_unknown_names_are_errors(world, name, cells, kind, error):
    with pytest.raises(error):
        plan_removal(Inventory.of(world), name, cells, stage_kind=kind)


def test_nothing_is_pruned_if_it_is_unknown_what_a_grid_needs(world):
    (world / "store" / "align" / "a1a1a1a1" / "stage.json").write_text("{")
    with pytest.raises(DataError, match="a1a1a1a1"):
        plan_prune(Inventory.of(world))
    (world / "grids" / "two" / "grid.json").unlink()
    with pytest.raises(DataError, match=r"has no grid\.json"):
        Inventory.of(world)


def _hold(lock, root, ready, end):
    with lock(root):
        ready.set()
        end.wait(30)


def _lock_stage(root):
    return locked(root / "store" / "instruct" / "0eeeeeee" / "lock")


@pytest.fixture
def held(world):
    """Return a function that holds a lock in another process until the test ends."""
    context = multiprocessing.get_context("fork")
    end, processes = context.Event(), []

    def hold(lock):
        ready = context.Event()
        process = context.Process(target=_hold, args=(lock, world, ready, end))
        process.start()
        processes.append(process)
        assert ready.wait(30)

    yield hold
    end.set()
    for process in processes:
        process.join(30)


def test_nothing_is_deleted_while_a_grid_runs(world, held):
    before = contents(world)
    held(using_store)
    with pytest.raises(ConfigError, match="wait until it has ended"):
        prune(world)
    assert contents(world) == before


def test_what_a_worker_uses_is_needed(world, held):
    held(_lock_stage)  # a job of a grid whose description was replaced
    assert [stage.address for stage in plan_prune(Inventory.of(world)).stages] == ["0fffffff"]
    removal = plan_removal(Inventory.of(world), "two")
    assert "0ddddddd" not in {stage.address for stage in removal.stages}


@pytest.mark.parametrize("document", ["docs/running/results-on-disk.md", "experiments/store.py"])
def test_documented_cells_exist(document):
    cells = name_cells(mix_ablation.cells(load_config(RunConfig, Path("configs/embedded.yaml"))))
    text = Path(document).read_text(encoding="utf-8")
    named = re.findall(r"remove mix_ablation-embedded (\w+)", text)
    assert len(named) == 2
    assert set(named) <= {cell.cell_id for cell in cells}

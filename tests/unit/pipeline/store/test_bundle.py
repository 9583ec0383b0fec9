"""Bundles and their import, with a kill before every change of a file."""

import io
import json
import shutil
import tarfile

import pytest

from core.errors import CheckpointError, ConfigError, DataError
from core.rng import named_rng
from pipeline.store.bundle import write_bundle
from pipeline.store.bundle_import import import_bundle
from pipeline.store.inventory import Inventory
from pipeline.store.store import Store
from tests.unit.pipeline.store.kills import (
    contents,
    make_stage,
    make_world,
    run_killed,
    run_killed_at_size,
)

_STAGES = {"f0f0f0f0", "a1a1a1a1", "11111111", "e1e1e1e1", "22222222", "e2e2e2e2"}


@pytest.fixture
def world(tmp_path):
    return make_world(tmp_path / "runs")


def bundle(root, out, *names, has_weights=False):
    return write_bundle(Inventory.of(root), names or ("one",), out, has_weights=has_weights)


def without_leftovers(found):
    return {name: content for name, content in found.items() if "/checkpoints/" not in name}


def test_a_bundle_with_weights_restores_everything(world, tmp_path):
    content = bundle(world, tmp_path / "a.tar", has_weights=True)
    assert (content.num_stages, content.left_out, content.unfinished) == (6, {}, ())
    bundle(world, tmp_path / "b.tar", has_weights=True)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    result = import_bundle(tmp_path / "a.tar", tmp_path / "other")
    assert (result.grids, result.added, result.incomplete) == (("one",), 6, 0)
    expected = without_leftovers(contents(world, _STAGES))
    assert contents(tmp_path / "other") == {
        name: data for name, data in expected.items() if not name.startswith("grids/two")
    }
    again = import_bundle(tmp_path / "a.tar", tmp_path / "other")
    assert (again.added, again.kept) == (0, 6)


def test_results_without_weights_are_not_taken_for_finished(world, tmp_path):
    content = bundle(world, tmp_path / "a.tar")
    assert len(content.left_out) == 6
    assert all(name.endswith(".safetensors") for name in content.left_out)
    root = tmp_path / "other"
    assert import_bundle(tmp_path / "a.tar", root).incomplete == 6
    folder = Store(root).folder("instruct", "11111111")
    assert (folder.result / "metrics.json").is_file()
    assert not folder.is_done()
    # It is computed again in the usual way.
    source = world / "store" / "instruct" / "11111111" / "result"
    shutil.copytree(source, folder.scratch, ignore=shutil.ignore_patterns("complete.json"))
    folder.seal()
    assert folder.is_done()
    assert not folder.left_out.exists()
    # A bundle with weights completes the others.
    bundle(world, tmp_path / "b.tar", has_weights=True)
    assert import_bundle(tmp_path / "b.tar", root).added == 5
    assert Store(root).folder("instruct", "22222222").is_done()


def test_unfinished_stage_runs_are_named(world, tmp_path):
    content = bundle(world, tmp_path / "a.tar", "two")
    assert content.unfinished == ("instruct 33333333", "e3e3e3e3")
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert not any("33333333" in name for name in tar.getnames())


def test_an_import_keeps_what_is_there(world, tmp_path):
    bundle(world, tmp_path / "a.tar", has_weights=True)
    root = tmp_path / "other"
    make_stage(root / "store" / "instruct" / "11111111", ["align/a1a1a1a1"], is_done=False)
    make_stage(root / "store" / "instruct" / "22222222", ["align/a1a1a1a1"])
    own = contents(root, {"22222222"})
    result = import_bundle(tmp_path / "a.tar", root)
    assert (result.added, result.kept) == (5, 1)
    assert contents(root, {"22222222"}).items() >= own.items()
    assert Store(root).folder("instruct", "11111111").is_done()
    (root / "grids" / "one" / "grid.json").write_text(
        json.dumps({"experiment": "mix", "cells": [{"cell_id": "x", "stages": {}}]})
    )
    with pytest.raises(ConfigError, match="--name"):
        import_bundle(tmp_path / "a.tar", root)
    assert import_bundle(tmp_path / "a.tar", root, name="theirs").grids == ("theirs",)


def test_a_progress_of_ones_own_is_not_replaced_by_less(world, tmp_path):
    bundle(world, tmp_path / "a.tar")
    root = tmp_path / "other"
    make_stage(root / "store" / "instruct" / "11111111", ["align/a1a1a1a1"], is_done=False)
    before = contents(root)
    import_bundle(tmp_path / "a.tar", root)
    assert contents(root, {"11111111"}).items() >= before.items()
    assert not Store(root).folder("instruct", "11111111").left_out.exists()


@pytest.mark.slow
def test_no_kill_of_an_import_loses_anything(world, tmp_path):
    bundle(world, tmp_path / "a.tar", has_weights=True)
    start = tmp_path / "start"
    make_stage(start / "store" / "instruct" / "11111111", ["align/a1a1a1a1"], is_done=False)
    make_stage(start / "store" / "instruct" / "0eeeeeee", [])
    before = contents(start)
    checkpoint = "store/instruct/11111111/checkpoints/step=3/state.pt"
    import_bundle(tmp_path / "a.tar", whole := tmp_path / "whole")
    complete, kills = contents(whole), 0
    for at in range(0, 10_000, 3):
        root = tmp_path / f"copy{at}"
        shutil.copytree(start, root)
        was_killed = run_killed(lambda root=root: import_bundle(tmp_path / "a.tar", root), at)
        now = contents(root)
        assert now[checkpoint] == before[checkpoint], at
        own = {name: data for name, data in before.items() if "0eeeeeee" in name}
        assert now.items() >= own.items(), at
        if (root / "grids" / "one" / "grid.json").is_file():  # then it has all of its results
            assert now.items() >= complete.items(), at
        import_bundle(tmp_path / "a.tar", root)
        assert contents(root).items() >= complete.items(), at
        shutil.rmtree(root)
        if not was_killed:
            break
        kills += 1
    assert kills > 10


@pytest.mark.slow
def test_a_killed_bundle_leaves_the_old_file(world, tmp_path):
    out = tmp_path / "out" / "a.tar"
    bundle(world, out)
    old = out.read_bytes()
    for at in range(2_000):
        if not run_killed(lambda: bundle(world, out, "two", has_weights=True), at):
            break
        assert out.read_bytes() == old
    assert at > 1
    assert out.read_bytes() != old


@pytest.mark.slow
def test_a_bundle_killed_at_a_random_byte_leaves_the_old_file_and_the_store(world, tmp_path):
    out = tmp_path / "out" / "a.tar"
    bundle(world, out)
    old, before = out.read_bytes(), contents(world)
    bundle(world, tmp_path / "b.tar", "one", "two", has_weights=True)
    new = (tmp_path / "b.tar").read_bytes()
    for num_bytes in named_rng(0, "kills").integers(len(new), size=20).tolist():
        work = lambda: bundle(world, out, "one", "two", has_weights=True)  # noqa: E731
        assert run_killed_at_size(work, num_bytes), num_bytes
        assert out.read_bytes() == old, num_bytes
        assert contents(world) == before, num_bytes
    bundle(world, out, "one", "two", has_weights=True)
    assert out.read_bytes() == new


def test_damaged_results_and_files_are_rejected(world, tmp_path):
    with pytest.raises(DataError, match="no grid 'three'"):
        bundle(world, tmp_path / "a.tar", "three")
    bundle(world, tmp_path / "a.tar")
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[content.index(b'"of": "11111111"')] ^= 1
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises(DataError, match="checksum"):
        import_bundle(tmp_path / "b.tar", tmp_path / "other")
    (tmp_path / "c.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:5_000])
    with pytest.raises(DataError, match="get the file again"):
        import_bundle(tmp_path / "c.tar", tmp_path / "other")
    assert contents(tmp_path / "other") == {}
    result = world / "store" / "evaluate" / "e1e1e1e1" / "result" / "metrics.json"
    result.write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        bundle(world, tmp_path / "d.tar")
    assert not (tmp_path / "d.tar").exists()


@pytest.mark.parametrize(
    "name", ["../outside", "/absolute", "store/instruct/../../x", "grids/../x/grid.json", "other"]
)
def test_a_bundle_writes_only_into_grids_and_stage_runs(tmp_path, name):
    files = {name: b"x"}
    manifest = {
        "format": 1,
        "files": {
            name: {"sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
        },
    }
    files["bundle.json"] = json.dumps(manifest).encode()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for one, content in files.items():
            member = tarfile.TarInfo(one)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError):
        import_bundle(tmp_path / "a.tar", tmp_path / "root")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / "a.tar"]

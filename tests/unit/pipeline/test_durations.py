"""Durations predicted from finished stage runs, and the remaining time of a grid."""

import dataclasses
import json
import socket
from types import SimpleNamespace

import pytest

from pipeline.durations import StageDurations, format_left, remaining_seconds
from pipeline.graph import Graph
from pipeline.store.states import State
from pipeline.store.store import Store


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingFields:
    num_steps: int = 100
    width: int = 64
    seed: int = 0


def node_of(**fields):
    return SimpleNamespace(
        kind="instruct", stage=TrainingFields(**fields), content={"data.json": "h1"}
    )


def finish(root, name, seconds, *, node="", data="h1", state="done", **fields):
    folder = root / "store" / "instruct" / name
    folder.mkdir(parents=True)
    config = dataclasses.asdict(TrainingFields(**fields))
    about = {"kind": "instruct", "config": config, "data": {"data.json": data}}
    (folder / "stage.json").write_text(json.dumps(about))
    status = {
        "state": state, "wall_s": seconds, "ended": 1.0, "node": node or socket.gethostname(),
    }  # fmt: skip
    (folder / "status.json").write_text(json.dumps(status))


def test_the_most_similar_stage_runs_decide(tmp_path):
    finish(tmp_path, "a", 50.0)
    finish(tmp_path, "b", 60.0, seed=1)
    finish(tmp_path, "c", 400.0, width=256)
    finish(tmp_path, "d", 9.0, state="failed")
    finish(tmp_path, "e", 5.0, node="another")
    durations = StageDurations(Store(tmp_path))
    assert durations.predict(node_of()) == 55.0
    assert durations.predict(node_of(num_steps=300, seed=7)) == 165.0
    assert durations.predict(node_of(width=256)) == 400.0


def test_other_machines_count_if_this_one_has_nothing(tmp_path):
    durations = StageDurations(Store(tmp_path))
    assert durations.predict(node_of()) is None
    finish(tmp_path, "a", 5.0, node="another")
    assert StageDurations(Store(tmp_path)).predict(node_of()) == 5.0


def graph_of(**inputs):
    nodes = {}
    for address, upstream in inputs.items():
        nodes[address] = SimpleNamespace(
            address=address,
            inputs={one: nodes[one] for one in upstream},
            stage=SimpleNamespace(uses_all_cores=address == "features"),
        )
    return Graph(nodes=nodes, cells={})


@pytest.fixture
def graph():
    return graph_of(
        features=[], align=["features"], i1=["align"], i2=["align"], i3=["align"], e1=["i1"]
    )


@pytest.mark.parametrize(("num_slots", "expected"), [(1, 270.0), (2, 200.0), (3, 170.0)])
def test_stage_runs_wait_for_inputs_and_cores(graph, num_slots, expected):
    left = {"features": 40.0, "align": 60.0, "i1": 50.0, "i2": 50.0, "i3": 50.0, "e1": 20.0}
    assert remaining_seconds(graph, {}, left, num_slots) == expected


def test_finished_running_and_failed_stage_runs(graph):
    states = dict.fromkeys(("features", "align"), State.DONE)
    states |= {"i2": State.RUNNING, "i3": State.FAILED}
    left = {"i1": 50.0, "i2": 10.0, "e1": 20.0}
    assert remaining_seconds(graph, states, left, 2) == 70.0
    assert remaining_seconds(graph, states, left, 1) == 80.0
    del left["i1"]
    assert remaining_seconds(graph, states, left, 2) is None


def test_times_are_rounded():
    assert [format_left(x) for x in (0.2, 44.4, 90.0, 5400.0)] == ["1 s", "44 s", "2 min", "1.5 h"]

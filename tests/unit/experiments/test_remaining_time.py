"""Remaining time of a grid, replayed on recorded and on made timelines."""

import dataclasses
import itertools
import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.run_steps.remaining_time import GridClock
from experiments.run_steps.run_speed import RunningStage, RunSpeed
from pipeline.durations import remaining_seconds
from pipeline.graph import Graph
from pipeline.store.states import State
from pipeline.store.store import Status, Store
from planner.estimator import StageEstimate

TIMELINES = sorted((Path(__file__).parent / "timelines").glob("*.json"))
"""Grids of a machine with two cores, in an empty store, while other programs ran beside them."""
TICK_S = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedStage:
    """Fields of a recorded stage run."""

    fields: dict[str, str]
    uses_all_cores: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """What happened to a stage run."""

    kind: str
    planned_s: float
    started: float
    ended: float
    inputs: tuple[str, ...] = ()
    all_cores: bool = False
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    total: int | None = None
    steps: tuple[tuple[float, int], ...] = ()

    def state(self, now):
        if now >= self.ended:
            return State.DONE
        return State.RUNNING if now >= self.started else State.WAITING


def graph_of(records):
    nodes = {}
    for address, one in records.items():
        nodes[address] = SimpleNamespace(
            address=address,
            kind=one.kind,
            content={},
            inputs={name: nodes[name] for name in one.inputs},
            stage=RecordedStage(fields=one.fields, uses_all_cores=one.all_cores),
            estimate=lambda _, one=one: StageEstimate(cpu_seconds=one.planned_s),
        )
    return Graph(nodes=nodes, cells={})


def read_timeline(path):
    content = json.loads(path.read_text())
    return content["slots"], {a: Record(**one) for a, one in content["stage_runs"].items()}


def replay(records, num_slots, *, planned=True):
    """Return (time, estimate, truth) of every tick."""
    graph = graph_of(records)
    expected = {a: one.planned_s for a, one in records.items()} if planned else {}
    speed, end = RunSpeed(graph, expected, start=0.0), max(one.ended for one in records.values())
    estimates, seen = [], dict.fromkeys(records, State.WAITING)
    for now in itertools.takewhile(lambda t: t < end, itertools.count(0.0, TICK_S)):
        states = {address: one.state(now) for address, one in records.items()}
        for address, one in records.items():
            if states[address] is State.RUNNING:
                stage = speed.start(address, now)
                for at, step in (pair for pair in one.steps if now - TICK_S < pair[0] <= now):
                    stage.progress(at, step, one.total)
            elif states[address] is State.DONE and seen[address] is not State.DONE:
                speed.end(address, now, one.ended - one.started)
        speed.observe(now)
        left = {
            address: seconds
            for address, state in states.items()
            if state is not State.DONE
            and (seconds := (speed.left if state is State.RUNNING else speed.predict)(address))
            is not None
        }
        estimates.append((now, remaining_seconds(graph, states, left, num_slots), end - now))
        seen = states
    return estimates


def at(estimates, fraction):
    """Return the relative error of the first estimate after a fraction of the time."""
    end = estimates[0][2]
    _, estimate, truth = next(one for one in estimates if one[0] >= fraction * end)
    return estimate / truth - 1


@pytest.mark.parametrize("path", TIMELINES, ids=lambda path: path.stem)
def test_recorded_grids_are_within_a_quarter_after_a_quarter(path):
    num_slots, records = read_timeline(path)
    estimates = replay(records, num_slots)
    assert all(estimate is not None and estimate >= 0 for _, estimate, _ in estimates)
    assert abs(at(estimates, 0.25)) < 0.25
    end = estimates[0][2]
    later = [abs(e / truth - 1) for now, e, truth in estimates if 0.25 * end <= now < 0.95 * end]
    assert sum(later) / len(later) < 0.2


def make_records(rng, num_slots, *, load, planned_error):
    """Return a made grid: the schedule of stage runs whose times differ from the plan.

    `load` returns the slowdown at a time; the plan is too short by a factor of each kind.
    """
    kinds = {"features": 40.0, "align": 30.0, "instruct": 90.0, "evaluate": 12.0}
    errors = {kind: planned_error ** rng.uniform(-1, 1) for kind in kinds}
    names, planned = {"features": ()}, {"features": kinds["features"]}
    for cell in range(rng.randint(4, 10)):
        upstream = "features"
        for kind in ("align", "instruct", "evaluate"):
            name = f"{kind}{cell}"
            names[name] = (upstream,)
            planned[name] = kinds[kind] * rng.uniform(0.4, 2.5)
            upstream = name
    free, ready, records = [0.0] * num_slots, {}, {}
    waiting = list(names)
    while waiting:
        slot = min(range(num_slots), key=free.__getitem__)
        known = [n for n in waiting if all(one in ready for one in names[n])]
        start_of = {n: max([free[slot], *(ready[one] for one in names[n])]) for n in known}
        name = min(known, key=lambda n: (start_of[n], waiting.index(n)))
        kind, begin = name.rstrip("0123456789"), start_of[name]
        steps, now, total = [], begin, 100
        for step in range(1, total + 1):
            now += planned[name] * errors[kind] * load(now) / total
            steps.append((now, step))
        records[name] = Record(
            kind=kind, planned_s=planned[name], started=begin, ended=now, inputs=names[name],
            total=total if kind in ("align", "instruct") else None,
            steps=tuple(steps) if kind in ("align", "instruct") else (),
        )  # fmt: skip
        ready[name] = free[slot] = now
        waiting.remove(name)
    return {name: records[name] for name in names}


@pytest.mark.parametrize("num_slots", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_a_wrong_plan_is_corrected(num_slots, seed):
    records = make_records(random.Random(seed), num_slots, load=lambda _: 1.7, planned_error=2.0)
    estimates = replay(records, num_slots)
    assert all(estimate is not None and estimate >= 0 for _, estimate, _ in estimates)
    assert abs(at(estimates, 0.5)) < 0.25
    assert abs(at(estimates, 0.75)) < 0.2


@pytest.mark.parametrize("num_slots", [1, 2, 8])
def test_a_load_that_doubles_is_noticed(num_slots):
    calm = make_records(random.Random(5), num_slots, load=lambda _: 1.0, planned_error=1.0)
    half = max(one.ended for one in calm.values()) / 2

    def doubled(now):
        return 2.0 if now > half else 1.0

    records = make_records(random.Random(5), num_slots, load=doubled, planned_error=1.0)
    estimates = replay(records, num_slots)
    assert at(estimates, 0.2) < -0.2, "nothing tells of the load that is to come"
    assert abs(at(estimates, 0.6)) < 0.25


def test_without_a_plan_a_kind_is_known_from_its_first_stage_run():
    records = {
        "a": Record(kind="tower", planned_s=0.0, started=0.0, ended=50.0),
        "b": Record(kind="tower", planned_s=0.0, started=50.0, ended=100.0),
    }
    estimates = replay(records, 1, planned=False)
    assert estimates[0][1] is None
    assert estimates[10][1] == 50.0


def test_progress_of_an_earlier_attempt_is_no_speed():
    stage = RunningStage(0.0)
    stage.progress(10.0, 400, 500)
    assert stage.left(10.0, 200.0) == 190.0
    stage.progress(11.0, 300, 500)  # resumed at its last checkpoint
    stage.progress(12.0, 310, 500)
    stage.progress(13.0, 320, 500)
    assert stage.left(13.0, 200.0) == 18.0
    assert stage.left(14.0, 200.0) == 17.0, "time passes between two steps"


def test_an_overdue_stage_run_still_needs_time():
    stage = RunningStage(0.0)
    assert stage.left(80.0, 90.0) == 10.0
    assert stage.left(300.0, 90.0) == 30.0


def test_the_clock_shows_a_planned_time_from_the_start(tmp_path):
    records = {
        "a": Record(kind="align", planned_s=50.0, started=0.0, ended=100.0),
        "b": Record(kind="instruct", planned_s=100.0, started=100.0, ended=300.0, inputs=("a",)),
    }
    now, store = [0.0], Store(tmp_path)
    clock = GridClock(graph_of(records), store, 2, clock=lambda: now[0])
    states = {"a": State.RUNNING, "b": State.WAITING}
    clock.on_progress("a", 0, None)
    assert clock.grid_left(states) == clock.first_total_s == 150.0
    for step in range(1, 26):
        now[0] = 2.0 * step  # twice as long as planned
        clock.on_progress("a", step, 50)
    assert clock.grid_left(states) == pytest.approx(250.0, rel=0.05)
    assert clock.stage_left("a") == pytest.approx(50.0)

    folder = store.folder("align", "a")
    folder.path.mkdir(parents=True)
    folder.write_status(Status(state=State.DONE, wall_s=100.0))
    clock.on_end("a", State.DONE)
    now[0] = 100.0
    assert clock.grid_left({"a": State.DONE, "b": State.RUNNING}) == pytest.approx(200.0, rel=0.05)
    assert clock.grid_left({"a": State.DONE, "b": State.DONE}) is not None, "of the last second"


def test_nothing_is_planned_without_cores_of_this_machine(tmp_path):
    records = {"a": Record(kind="align", planned_s=50.0, started=0.0, ended=100.0)}
    clock = GridClock(graph_of(records), Store(tmp_path), 0)
    clock.on_progress("a", 0, None)
    assert clock.grid_left({"a": State.RUNNING}) is None
    assert clock.stage_left("a") is None

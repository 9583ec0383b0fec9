"""The dry run on the terminal: what would run, on how much data, in how much memory and time."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from configuration.mixture import expected_manifests
from pipeline.grid_plan import GridPlan
from pipeline.stages.graph import Graph, StageNode
from pipeline.stages.specs import EvaluateSpec, StageKind
from pipeline.store.store import Store
from planner.advice import COUNTS, ways_out
from planner.costs import Cost, Weights
from planner.estimator import Estimator, trained_weights, width_of
from planner.gpus import ACHIEVED, GIB, GPUS, get_gpu
from planner.workload import Load

_HOUR = 3600.0
_COLUMNS = ("stage run", "address", "cells", "steps", "samples", "tokens", "epochs (source)",
            "trained", "frozen", "memory", "time", "state")  # fmt: skip
_TEXTS = ("stage run", "epochs (source)", "state")
_MISSING_SHOWN = 4
_SHORT, _LONG = 2.0, 10.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """Of one stage run."""

    load: Load
    weights: Weights
    memory: str
    time: str


def show_plan(console: Console, plan: GridPlan, *, root: Path, gpu: str) -> None:
    """Print it: for the cores of this machine, or for GPUs where the profile asks for them."""
    expected = expected_manifests(plan.cells[0].config) if plan.cells else {}
    estimator = Estimator(expected, root / "cache")
    if plan.trainer.accelerator == "cpu":
        _show_cpu(console, plan, estimator, root)
    else:
        _show_gpu(console, plan, estimator, root, gpu)
    _show_missing(console, plan.graph)


def _show_cpu(console: Console, plan: GridPlan, estimator: Estimator, root: Path) -> None:
    estimates = {
        address: estimator.on_this_machine(node) for address, node in plan.graph.nodes.items()
    }

    def row(address: str) -> _Row:
        numbers = estimates[address]
        seconds = numbers.seconds
        return _Row(
            load=numbers.load,
            weights=Weights(trained=numbers.trained, frozen=numbers.frozen),
            memory=f"{numbers.memory_mb:,.0f} MB",
            time="?" if seconds is None else f"{seconds:,.0f} s",
        )

    _show_stages(console, plan.graph, root, row)
    open_ones = [estimates[address].seconds for address in _to_run(plan.graph, root)]
    is_known = None not in open_ones
    total_s = sum(seconds or 0.0 for seconds in open_ones)
    console.print(
        f"{'About' if is_known else 'More than'} {total_s / 60:.0f} core-minutes of computing to "
        f"do, estimated for this machine; {len(plan.graph.cells)} cells share what is equal.",
        highlight=False,
    )


def _show_gpu(console: Console, plan: GridPlan, estimator: Estimator, root: Path, gpu: str) -> None:
    kind, count = get_gpu(gpu), plan.trainer.devices
    graph = plan.graph
    costs = {
        address: estimator.cost(node, count=_count(node, count))
        for address, node in graph.nodes.items()
    }

    def row(address: str) -> _Row:
        node, cost = graph.nodes[address], costs[address]
        if cost is None:
            return _Row(load=Load(), weights=Weights(trained=0, frozen=0), memory="?", time="?")
        number = _count(node, count)
        hours = cost.seconds(kind, width_of(node), number) / _HOUR
        return _Row(
            load=estimator.load(node),
            weights=trained_weights(node),
            memory=f"{cost.memory_gib:,.1f} GiB",
            time=f"{_duration(hours)} x {number}",
        )

    _show_stages(console, graph, root, row)
    _show_memory(console, graph, costs, gpu=gpu, room=kind.memory_gib)
    _show_kinds(console, plan, estimator, root)
    _show_advice(console, plan, estimator, gpu=gpu)
    console.print(
        f"Times assume {ACHIEVED:.0%} of the peak in 16-bit products (less for narrow models): an "
        "assumption until benchmarks/gpu_step has run on your GPU. "
        "Formulas: docs/reference/planner.md.",
        soft_wrap=True,
        highlight=False,
    )


def _show_stages(console: Console, graph: Graph, root: Path, row: Callable[[str], _Row]) -> None:
    table = Table(title=f"{len(graph.cells)} cells, {len(graph.nodes)} stage runs")
    for name in _COLUMNS:
        justify = "left" if name in _TEXTS else "right"
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    open_ones = set(_to_run(graph, root))
    for address, node in graph.nodes.items():
        numbers = row(address)
        load, weights = numbers.load, numbers.weights
        counts = (load.num_steps, load.num_samples, load.num_tokens)
        parameters = (weights.trained, weights.frozen)
        state = "to run" if address in open_ones else "done"
        table.add_row(
            node.title,
            "" if graph.missing else address[:8],
            str(len(graph.cells_of(address))),
            *(f"{count:,.0f}" if count else "" for count in counts),
            load.epochs,
            *(f"{count / 1e6:,.2f} M" if count else "" for count in parameters),
            numbers.memory,
            numbers.time,
            "data missing" if graph.missing else state,
        )
    console.print(table)


def _show_memory(
    console: Console, graph: Graph, costs: Mapping[str, Cost | None], *, gpu: str, room: float
) -> None:
    """One line per kind of stage run, of its largest."""
    largest: dict[StageKind, Cost] = {}
    for address, node in graph.nodes.items():
        cost = costs[address]
        if cost and (node.kind not in largest or cost.memory_gib > largest[node.kind].memory_gib):
            largest[node.kind] = cost
    parts = list(dict.fromkeys(part for cost in largest.values() for part in cost.memory))
    table = Table(title=f"Memory on each GPU, GiB (one {gpu} has {room:.1f})")
    table.add_column("stage")
    for part in (*parts, "together"):
        table.add_column(part, justify="right")
    for kind, cost in largest.items():
        values = [cost.memory.get(part, 0.0) / GIB for part in parts]
        style = "" if cost.memory_gib <= room else "red"
        cells = (f"{value:.1f}" if value else "" for value in values)
        table.add_row(kind.value, *cells, f"{cost.memory_gib:.1f}", style=style)
    console.print(table)


def _show_kinds(console: Console, plan: GridPlan, estimator: Estimator, root: Path) -> None:
    """Hours of the grid for every kind of GPU and number of them."""
    table = Table(title="Hours for what is to run, with so many GPUs on a training stage at once")
    table.add_column("GPU")
    for count in COUNTS:
        table.add_column(f"x {count}", justify="right")
    nodes = [plan.graph.nodes[address] for address in _to_run(plan.graph, root)]
    for name in GPUS:
        table.add_row(name, *(_hours(nodes, estimator, name, count) for count in COUNTS))
    console.print(table)


def _hours(nodes: list[StageNode], estimator: Estimator, gpu: str, count: int) -> str:
    """Wall clock, or what does not fit; stages on one GPU run side by side."""
    kind = get_gpu(gpu)
    total, too_large = 0.0, 0.0
    for node in nodes:
        number = _count(node, count)
        cost = estimator.cost(node, count=number)
        if cost is None:
            return "?"
        too_large = max(too_large, cost.memory_gib if cost.memory_gib > kind.memory_gib else 0.0)
        total += cost.seconds(kind, width_of(node), number) * number / count / _HOUR
    return f"needs {too_large:.0f} GiB" if too_large else _duration(total)


def _duration(hours: float) -> str:
    if hours < _SHORT:
        return f"{hours * 60:,.0f} min"
    return f"{hours:,.1f} h" if hours < _LONG else f"{hours:,.0f} h"


def _show_advice(console: Console, plan: GridPlan, estimator: Estimator, *, gpu: str) -> None:
    """For every kind of training stage that does not fit."""
    room, seen = get_gpu(gpu).memory_gib, set[StageKind]()
    for node in plan.graph.nodes.values():
        cost = estimator.cost(node, count=_count(node, plan.trainer.devices))
        if cost is None or cost.memory_gib <= room or node.kind in seen:
            continue
        seen.add(node.kind)
        if isinstance(node.spec, EvaluateSpec):
            console.print(
                f"[red]{node.kind} does not fit on {gpu}[/]: set evaluate.weights=bfloat16, or a "
                "smaller evaluate.batch_size",
                soft_wrap=True,
            )
            continue
        ways = ways_out(estimator, node, memory_gib=room, count=plan.trainer.devices)
        console.print(
            f"[red]{node.kind} does not fit on {plan.trainer.devices} x {gpu}.[/]", end=" "
        )
        if not ways:
            console.print("Nothing here makes it fit; take a larger GPU or a smaller model.")
        for way in ways:
            words = escape(" ".join(way.overrides)) or "as it is"
            console.print(
                f"\n  {way.count} x {gpu}, {way.memory_gib:.1f} GiB each: --set {words}",
                soft_wrap=True,
                highlight=False,
                end="",
            )
        console.print()


def _show_missing(console: Console, graph: Graph) -> None:
    if not graph.missing:
        return
    shown = ", ".join(graph.missing[:_MISSING_SHOWN])
    more = len(graph.missing) - _MISSING_SHOWN
    console.print(
        f"[yellow]{len(graph.missing)} sources are not there yet[/]; the plan takes "
        f"`data.expected` of the profile for them: {shown}"
        + (f" and {more} more" if more > 0 else ""),
        soft_wrap=True,
        highlight=False,
    )


def _to_run(graph: Graph, root: Path) -> list[str]:
    store = Store(root)
    if graph.missing:  # addresses mean nothing without the data
        return list(graph.nodes)
    return [
        address
        for address, node in graph.nodes.items()
        if not store.folder(node.kind.value, address).is_done()
    ]


def _count(node: StageNode, devices: int) -> int:
    return devices if node.is_training else 1

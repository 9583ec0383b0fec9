"""Tables of a dry run: what would run, on how much data, in how much memory and time."""

from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from configuration.mixture import expected_manifests, single_language_notes
from configuration.trainer import Accelerator
from core.process.machine import available_cores
from pipeline.durations import StageDurations, format_left, planned_seconds, remaining_seconds
from pipeline.graph import Graph, StageNode
from pipeline.grid_plan import GridPlan
from pipeline.stages.training import TrainingStage
from pipeline.store.states import State
from pipeline.store.store import Store
from planner.costs import Cost
from planner.estimator import Estimator, StageEstimate
from planner.gpus import ACHIEVED, GIB, GPUS, TimeSpan, get_gpu
from reporting.dry_run.kinds import PlannedRow, show_kinds
from reporting.dry_run.memory_fixes import GPU_COUNTS, memory_fixes
from reporting.settings import describe_equal_cells

_HOUR = 3600.0
_COLUMNS = ("stage run", "address", "cells", "steps", "samples", "tokens", "epochs (source)",
            "trained", "frozen", "operations", "memory", "time", "state")  # fmt: skip
_LEFT_ALIGNED = ("stage run", "epochs (source)", "state")
_MISSING_SHOWN = 4
_MINUTES_BELOW_H, _DECIMALS_BELOW_H = 2.0, 10.0


def show_plan(
    console: Console, plan: GridPlan, *, root: Path, gpu: str, is_verbose: bool = False
) -> None:
    """Print the plan for this machine's cores, or for GPUs if the profile uses them.

    Args:
        console: Where to print.
        plan: The plan.
        root: Output folder, whose finished stage runs tell how long others take.
        gpu: GPU type of the estimated costs.
        is_verbose: Print one line per stage run instead of one per stage kind.
    """
    expected = {
        path: source
        for cell in plan.cells
        for path, source in expected_manifests(cell.config).items()
    }
    estimator = Estimator(expected, root / "cache")
    if plan.trainer.accelerator is Accelerator.CPU:
        _show_cpu(console, plan, estimator, root, is_verbose=is_verbose)
    else:
        _show_gpu(console, plan, estimator, root, gpu, is_verbose=is_verbose)
    if not is_verbose:
        console.print("--verbose prints every stage run with its address.", highlight=False)
    _show_missing(console, plan.graph)
    if selection := plan.describe_selection():
        console.print(escape(selection), soft_wrap=True, highlight=False)
    for note in single_language_notes(cell.config for cell in plan.cells):
        console.print(f"[yellow]{escape(note)}[/]", soft_wrap=True, highlight=False)
    for line in plan.adapted:
        console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True, highlight=False)
    for cells in plan.full_graph.equal_cells():
        console.print(f"[yellow]{describe_equal_cells(cells)}[/]", soft_wrap=True, highlight=False)


def _show_cpu(
    console: Console, plan: GridPlan, estimator: Estimator, root: Path, *, is_verbose: bool
) -> None:
    estimates = {address: node.estimate(estimator) for address, node in plan.graph.nodes.items()}
    durations = StageDurations(Store(root))
    known = {
        address: seconds
        for address, node in plan.graph.nodes.items()
        if not plan.graph.missing and (seconds := durations.predict(node)) is not None
    }
    times = planned_seconds(plan.graph, estimates, available_cores()) | known

    def row(address: str) -> PlannedRow:
        estimate, seconds = estimates[address], times.get(address)
        return PlannedRow(
            estimate=estimate,
            memory=f"{estimate.cpu_memory_mb:,.0f} MB",
            time="?" if seconds is None else f"{seconds:,.0f} s",
        )

    _show_stages(console, plan.graph, root, row, is_verbose=is_verbose)
    to_run = _addresses_to_run(plan.graph, root)
    total_s = sum(times.get(address, 0.0) for address in to_run)
    is_known = all(address in times for address in to_run)
    measured = sum(address in known for address in to_run)
    source = f"{measured} of {len(to_run)} times from finished stage runs, the others planned"
    console.print(
        f"{'About' if is_known else 'More than'} {total_s / 60:.0f} minutes of computation remain "
        f"({source}){_describe_wall(plan.graph, to_run, times)}.",
        highlight=False,
        soft_wrap=True,
    )


def _describe_wall(graph: Graph, to_run: list[str], times: Mapping[str, float]) -> str:
    """Return how long the stage runs take side by side on all cores."""
    left = {a: times[a] for a in to_run if a in times}
    states = {address: State.DONE for address in graph.nodes if address not in to_run}
    num_cores = available_cores()
    seconds = remaining_seconds(graph, states, left, num_cores)
    if not to_run or seconds is None:
        return ""
    return f", about {format_left(seconds)} on {num_cores} cores"


def _show_gpu(
    console: Console,
    plan: GridPlan,
    estimator: Estimator,
    root: Path,
    gpu: str,
    *,
    is_verbose: bool,
) -> None:
    kind, count = get_gpu(gpu), plan.trainer.devices
    graph = plan.graph
    estimates = {
        address: node.estimate(estimator, count=_num_gpus(node, count))
        for address, node in graph.nodes.items()
    }

    def row(address: str) -> PlannedRow:
        estimate, cost = estimates[address], estimates[address].cost
        if cost is None:
            return PlannedRow(estimate=StageEstimate(), memory="?", time="?")
        number = _num_gpus(graph.nodes[address], count)
        span = cost.time(kind, estimate.width, number)
        return PlannedRow(
            estimate=estimate,
            memory=f"{cost.memory_gib:,.1f} GiB",
            time=f"{format_span(span)} x {number}",
        )

    _show_stages(console, graph, root, row, is_verbose=is_verbose)
    costs = {address: estimate.cost for address, estimate in estimates.items()}
    _show_memory(console, graph, costs, gpu=gpu, room=kind.memory_gib)
    _show_gpu_hours(console, plan, estimator, root)
    _show_memory_fixes(console, plan, estimator, gpu=gpu)
    console.print(
        f"Times assume {ACHIEVED[0]:.0%} to {ACHIEVED[1]:.0%} of the 16-bit peak (less for narrow "
        "models; published: 33-39%), an assumption until benchmarks/gpu_step has run on your GPU. "
        "Formulas: docs/reference/planner.md.",
        soft_wrap=True,
        highlight=False,
    )


def _show_stages(
    console: Console,
    graph: Graph,
    root: Path,
    row: Callable[[str], PlannedRow],
    *,
    is_verbose: bool,
) -> None:
    if not is_verbose:
        show_kinds(console, graph, set(_addresses_to_run(graph, root)), row)
        return
    table = Table(title=f"{len(graph.cells)} cells, {len(graph.nodes)} stage runs")
    for name in _COLUMNS:
        justify = "left" if name in _LEFT_ALIGNED else "right"
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    to_run = set(_addresses_to_run(graph, root))
    for address, node in graph.nodes.items():
        numbers = row(address)
        load, weights = numbers.estimate.load, numbers.estimate.weights
        counts = (load.num_steps, load.num_samples, load.num_tokens)
        parameters = (weights.trained, weights.frozen)
        state = "to run" if address in to_run else "done"
        table.add_row(
            node.title,
            "" if graph.missing else address[:8],
            str(len(graph.cells_of(address))),
            *(f"{count:,.0f}" if count else "" for count in counts),
            load.epochs,
            *(f"{count / 1e6:,.2f} M" if count else "" for count in parameters),
            "" if numbers.estimate.cost is None else f"{numbers.estimate.cost.flops:.1e}",
            numbers.memory,
            numbers.time,
            "data missing" if graph.missing else state,
        )
    console.print(table)


def _show_memory(
    console: Console, graph: Graph, costs: Mapping[str, Cost | None], *, gpu: str, room: float
) -> None:
    """Show one line per stage kind: its largest stage run."""
    largest: dict[str, Cost] = {}
    for address, node in graph.nodes.items():
        cost = costs[address]
        if cost and (node.kind not in largest or cost.memory_gib > largest[node.kind].memory_gib):
            largest[node.kind] = cost
    parts = list(dict.fromkeys(part for cost in largest.values() for part in cost.memory))
    table = Table(title=f"Memory on each GPU, GiB (one {gpu} has {room:.1f})")
    table.add_column("stage")
    for part in (*parts, "total"):
        table.add_column(part, justify="right")
    for kind, cost in largest.items():
        values = [cost.memory.get(part, 0.0) / GIB for part in parts]
        style = "" if cost.memory_gib <= room else "red"
        cells = (f"{value:.1f}" if value else "" for value in values)
        table.add_row(kind, *cells, f"{cost.memory_gib:.1f}", style=style)
    console.print(table)


def _show_gpu_hours(console: Console, plan: GridPlan, estimator: Estimator, root: Path) -> None:
    """Show the hours of the grid for every kind and number of GPUs."""
    table = Table(title="Hours of the remaining stage runs, by GPUs per training stage")
    table.add_column("GPU")
    for count in GPU_COUNTS:
        table.add_column(f"x {count}", justify="right")
    nodes = [plan.graph.nodes[address] for address in _addresses_to_run(plan.graph, root)]
    for name in GPUS:
        table.add_row(name, *(_hours(nodes, estimator, name, count) for count in GPU_COUNTS))
    console.print(table)


def _hours(nodes: list[StageNode], estimator: Estimator, gpu: str, count: int) -> str:
    """Return the range of wall-clock hours, or the memory that is missing.

    Stages that use one GPU run side by side.
    """
    kind = get_gpu(gpu)
    total, too_large = TimeSpan(), 0.0
    for node in nodes:
        number = _num_gpus(node, count)
        estimate = node.estimate(estimator, count=number)
        cost = estimate.cost
        if cost is None:
            return "?"
        if cost.uses_float8 and not kind.has_float8:
            return "no float8"
        too_large = max(too_large, cost.memory_gib if cost.memory_gib > kind.memory_gib else 0.0)
        total = total.plus(cost.time(kind, estimate.width, number), factor=number / count)
    return f"needs {too_large:.0f} GiB" if too_large else format_span(total)


def format_span(span: TimeSpan) -> str:
    """Return the shortest and the longest time in the unit that suits the longest."""
    hours = span.longest_s / _HOUR
    unit, seconds = ("min", 60.0) if hours < _MINUTES_BELOW_H else ("h", _HOUR)
    decimals = 1 if _MINUTES_BELOW_H <= hours < _DECIMALS_BELOW_H else 0
    texts = [f"{value / seconds:,.{decimals}f}" for value in (span.shortest_s, span.longest_s)]
    return f"{'-'.join(dict.fromkeys(texts))} {unit}"


def _show_memory_fixes(console: Console, plan: GridPlan, estimator: Estimator, *, gpu: str) -> None:
    """Show what to change for every stage kind that does not fit on the GPU."""
    room, seen = get_gpu(gpu).memory_gib, set[str]()
    devices = plan.trainer.devices
    for node in plan.graph.nodes.values():
        cost = node.estimate(estimator, count=_num_gpus(node, devices)).cost
        if cost is None or cost.memory_gib <= room or node.kind in seen:
            continue
        seen.add(node.kind)
        if not isinstance(node.stage, TrainingStage):
            advice = node.stage.memory_fix or "use a larger GPU or a smaller model"
            console.print(f"[red]{node.kind} does not fit on {gpu}[/]: {advice}", soft_wrap=True)
            continue
        fixes = memory_fixes(estimator, node, memory_gib=room, count=devices)
        console.print(f"[red]{node.kind} does not fit on {devices} x {gpu}.[/]", end=" ")
        if not fixes:
            console.print("No known setting makes it fit; use a larger GPU or a smaller model.")
        for fix in fixes:
            overrides = escape(" ".join(fix.overrides)) or "(unchanged)"
            console.print(
                f"\n  {fix.count} x {gpu}, {fix.memory_gib:.1f} GiB each: --set {overrides}",
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
        f"[yellow]{len(graph.missing)} sources do not exist yet[/]; the plan uses "
        f"`data.expected` of the profile for them: {shown}"
        + (f" and {more} more" if more > 0 else ""),
        soft_wrap=True,
        highlight=False,
    )


def _addresses_to_run(graph: Graph, root: Path) -> list[str]:
    store = Store(root)
    if graph.missing:  # addresses mean nothing without the data
        return list(graph.nodes)
    return [
        address
        for address, node in graph.nodes.items()
        if not store.folder(node.kind, address).is_done()
    ]


def _num_gpus(node: StageNode, devices: int) -> int:
    return devices if node.stage.is_distributed else 1

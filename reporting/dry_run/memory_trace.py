"""Traced memory of the training stages of a plan, next to the planner's formulas."""

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from configuration.mixture import expected_manifests
from pipeline.graph import StageNode
from pipeline.grid_plan import GridPlan
from pipeline.stages.training import TrainingStage
from planner.costs import RESERVE
from planner.estimator import Estimator, count_model
from planner.gpus import GIB
from planner.trace.step import MemoryTrace, trace_memory

NOT_TRACED = (
    "A trace does not see the CUDA context, buffers of NCCL, workspaces inside kernels and "
    "fragments of the allocator; the planner's reserve is for them."
)


def show_memory_traces(console: Console, plan: GridPlan, *, root: Path) -> None:
    """Trace one stage run of each training stage and print it by part."""
    estimator = Estimator(expected_manifests(plan.cells[0].config), root / "cache")
    count = plan.trainer.devices * plan.trainer.num_nodes
    seen = set[str]()
    for node in plan.graph.nodes.values():
        if not isinstance(node.stage, TrainingStage) or node.kind in seen:
            continue
        seen.add(node.kind)
        start = time.perf_counter()
        trace = trace_node(node, estimator, count=count)
        seconds = time.perf_counter() - start
        _show_trace(console, node, planned_bytes(node, estimator, count=count), trace, count=count)
        console.print(f"Traced in {seconds:.0f} s. {NOT_TRACED}", soft_wrap=True, highlight=False)


def trace_node(node: StageNode, estimator: Estimator, *, count: int) -> MemoryTrace:
    """Trace the peak memory of a training stage run on the first of `count` GPUs.

    Raises:
        TypeError: If the stage does not train.
    """
    if not isinstance(node.stage, TrainingStage):
        raise TypeError(f"expected a training stage, got {type(node.stage).__name__}")
    return trace_memory(
        node.stage,
        node.estimate(estimator, count=count).load,
        has_tower=node.has_tower,
        count=count,
        num_blocks=count_model(node.stage.model, node.stage.tuning).num_blocks,
    )


def planned_bytes(node: StageNode, estimator: Estimator, *, count: int) -> dict[str, float]:
    """Return the planned bytes by part, without the reserve."""
    cost = node.estimate(estimator, count=count).cost
    return {} if cost is None else {k: v for k, v in cost.memory.items() if k != RESERVE}


def _show_trace(
    console: Console, node: StageNode, planned: dict[str, float], trace: MemoryTrace, *, count: int
) -> None:
    table = Table(title=f"{node.title} on {count} GPUs: peak in the phase '{trace.phase}', GiB")
    table.add_column("part")
    for name in ("planner", "trace"):
        table.add_column(name, justify="right")
    for part in dict.fromkeys((*planned, *trace.parts)):
        values = [parts.get(part, 0.0) / GIB for parts in (planned, trace.parts)]
        if max(values) >= _SMALLEST_GIB:
            table.add_row(part, *(f"{value:.2f}" for value in values))
    totals = sum(planned.values()), trace.total
    table.add_row("total", *(f"{total / GIB:.2f}" for total in totals), style="bold")
    console.print(table)
    console.print(f"planner / trace = {totals[0] / totals[1]:.3f}", highlight=False)


_SMALLEST_GIB = 0.005

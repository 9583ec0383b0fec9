"""Compare the peak memory of real training steps with their traces on fake tensors.

    python -m benchmarks.gpu_session.memory                 # on a GPU
    python -m benchmarks.gpu_session.memory --device cpu    # in miniature

On a GPU, steps of four decoder blocks at the shapes of the profile `paper` run with real tensors,
and the peak is that of torch's allocator. A CPU has no such counter: there the storages of a real
step of the profile `small` are counted, which shows that fake tensors live as long as real ones,
and the planner's formulas are compared with the trace. A difference above 5 % is a failure; only a
compiled step on a GPU may need less than its trace, which runs its graphs operation by operation.
"""

import argparse
import contextlib
import gc
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from benchmarks.gpu_session.parts import MEMORY_ROWS
from benchmarks.memory_trace import LIMIT, Setting, stage_of
from models.accounting.live_memory import LiveMemory
from models.accounting.shapes import empty_vlm
from pipeline.graph import StageNode
from pipeline.stages.training import TrainingStage
from planner.estimator import Estimator
from planner.gpus import GIB
from planner.trace.fake_model import fake_micro_batch, fake_model
from planner.trace.step import hold, run_micro_batch, run_step, trace_step
from reporting.dry_run.memory_trace import planned_bytes, trace_node

OUT = Path("docs/results/gpu")
_BLOCKS = {"cuda": 4, "cpu": 2}
_WEIGHT_STD = 0.02
_FEWER_TOKENS = "{stage}.micro_batch_tokens=2048"
"""Override on a CPU."""
_REAL_KERNEL = "{stage}.compute.attention=mask"
"""Override for real steps on a CPU, which lacks the kernel of the profile. This one repeats keys
and values for all heads, so the planner's formulas do not apply to it."""


def settings(device: torch.device) -> list[Setting]:
    """Return the settings to compare; eager ones first, which compare exactly."""
    chosen = [
        ("align", "full", "ddp", "bf16-mixed", 0, False),
        ("instruct", "full", "fsdp2", "bf16-mixed", 0, False),
        ("instruct", "lora", "ddp", "bf16-mixed", 1, False),
        ("instruct", "full", "ddp", "bf16-true", 1, False),
        ("align", "full", "ddp", "bf16-mixed", 0, True),
        ("instruct", "full", "fsdp2", "bf16-mixed", 0, True),
        ("instruct", "full", "fsdp2", "float8-mixed", 0, True),
    ]
    names = ("stage", "tuning", "strategy", "precision", "checkpoint", "is_compiled")
    found = [Setting(count=1, **dict(zip(names, values, strict=True))) for values in chosen]  # type: ignore[arg-type]
    # Blocks compiled for a CPU differ from those compiled for a GPU, and float8 is emulated.
    return [setting for setting in found if device.type == "cuda" or not setting.is_compiled]


def compare(setting: Setting, device: torch.device, cache: Path) -> dict[str, Any]:
    """Return planned, traced and measured bytes of a setting; the planner's only on a CPU."""
    is_cpu = device.type == "cpu"
    profile = "small" if is_cpu else "paper"
    fewer, kernel = (text.format(stage=setting.stage) for text in (_FEWER_TOKENS, _REAL_KERNEL))
    more = (fewer, kernel) if is_cpu else ()
    node, estimator = stage_of(setting, cache, profile=profile, more=more)
    blocks = _BLOCKS[device.type]
    stage = cast(TrainingStage, node.stage)
    load = node.estimate(estimator, count=1).load
    phases = trace_step(stage, load, has_tower=node.has_tower, count=1, num_blocks=blocks)
    traced = max(sum(parts.values()) for parts in phases.values())
    measured = measure(node, estimator, device, num_blocks=blocks)
    row = {"setting": setting.name, "traced": traced, "measured": measured}
    if is_cpu:
        node, estimator = stage_of(setting, cache, profile=profile, more=(fewer,))
        row["planned"] = sum(planned_bytes(node, estimator, count=1).values())
        row["traced_whole"] = trace_node(node, estimator, count=1).total
    return row | {"failure": failure_of(row, is_upper_bound=setting.is_compiled)}


def failure_of(row: dict[str, Any], *, is_upper_bound: bool) -> str:
    """Return what differs by more than the limit; the trace may be an upper bound."""
    ratio = row["measured"] / row["traced"]
    if ratio > 1 + LIMIT or (ratio < 1 - LIMIT and not is_upper_bound):
        return f"measured / traced = {ratio:.3f}"
    ratio = row["planned"] / row["traced_whole"] if "planned" in row else 1.0
    return "" if abs(ratio - 1) <= LIMIT else f"planned / traced = {ratio:.3f}"


def measure(
    node: StageNode, estimator: Estimator, device: torch.device, *, num_blocks: int
) -> float:
    """Run a training step on real tensors, and return its peak memory in bytes."""
    stage = cast(TrainingStage, node.stage)
    vlm = empty_vlm(stage.model.tower, stage.model.connector, stage.model.language_model)
    vlm.model.tower = vlm.model.tower if node.has_tower else None
    load = node.estimate(estimator, count=1).load
    memory = LiveMemory()
    with _one_rank(device) as mesh:
        micro_batch = fake_micro_batch(stage, vlm, load, device)
        model = fake_model(stage, vlm, device, mesh, num_blocks=num_blocks)
        _fill(model)
        run_micro_batch(stage, model, micro_batch)  # compiles the blocks
        model.zero_grad(set_to_none=True)
        hold(memory, model, micro_batch)
        if device.type == "cpu":
            with memory:
                run_step(stage, model, micro_batch, memory)
            return float(max(sum(parts.values()) for parts in memory.peaks.values()))
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        run_step(stage, model, micro_batch, memory)
        return float(torch.cuda.max_memory_allocated(device))


@torch.no_grad()
def _fill(model: torch.nn.Module) -> None:
    """Draw random weights and frequencies: uninitialised values could overflow."""
    for parameter in model.parameters():
        parameter.normal_(std=_WEIGHT_STD)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.0, 1.0)


@contextlib.contextmanager
def _one_rank(device: torch.device) -> Iterator[DeviceMesh]:
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh(device.type, (1,))
    finally:
        dist.destroy_process_group()


def main(arguments: list[str] | None = None) -> int:
    """Compare all settings and write the rows; return 1 if one differs by more than 5 %."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the rows")
    options = parser.parse_args(arguments)
    device = torch.device(options.device, *([0] if options.device == "cuda" else []))
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for setting in settings(device):
            row = compare(setting, device, Path(cache))
            rows.append(row)
            sizes = [f"{key} {row[key] / GIB:.3f}" for key in row if isinstance(row[key], float)]
            print(f"{row['failure'] or 'ok'}: {setting.name}: {', '.join(sizes)} GiB", flush=True)
            gc.collect()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / MEMORY_ROWS).write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(row["failure"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())

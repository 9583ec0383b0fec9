"""Compare the planner's memory with traced training steps of large models, without a GPU.

    python -m benchmarks.memory_trace                 # all settings, about 30 minutes on one core
    python -m benchmarks.memory_trace --only lora     # the settings whose name contains a word
    python -m benchmarks.memory_trace --only qwen3    # ready-made models of the profile modern

Writes one row for each setting to docs/benchmarks/memory_trace.md and .json. Settings that are
already in the JSON file are not traced again; delete it to start over.
"""

import argparse
import dataclasses
import itertools
import json
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from configuration.grid_request import GridRequest
from configuration.mixture import expected_manifests
from experiments.run_steps.planning import make_plan
from pipeline.graph import StageNode
from planner.estimator import Estimator
from planner.gpus import GIB
from reporting.dry_run.memory_trace import NOT_TRACED, planned_bytes, trace_node

OUT = Path("docs/benchmarks/memory_trace")
LIMIT = 0.05
"""Largest allowed difference of planner and trace."""
COUNTS = (1, 2, 4, 8)
READY_MADE = ("qwen3_vl_2b", "qwen3_vl_4b", "qwen3_vl_8b")
_EXPLANATION = (
    "Written by `python -m benchmarks.memory_trace`: training steps of the profile `paper` "
    "(Llama-3.1-8B with CLIP ViT-L/14-336) and of Qwen3-VL in the profile `modern` (rows "
    "that begin with a model), traced on fake tensors and planned by formula, in GiB on each GPU, "
    f"without the planner's reserve. {NOT_TRACED} Compiled blocks run as the graphs "
    "of AOTAutograd, operation by operation: fused kernels need less while a block works. 4-bit "
    "weights are added by formula. Rows of DDP on several GPUs repeat that of one: its gradients "
    "are the buckets in which they are reduced."
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One way to run a training stage of the profile `paper`, or `modern` for ready-made models."""

    stage: str
    tuning: str
    strategy: str
    precision: str
    checkpoint: int
    is_compiled: bool
    count: int
    model: str = ""
    """Ready-made model of the profile `modern`; empty for the profile `paper`."""

    @property
    def name(self) -> str:
        """Name of the row."""
        compiled = "compiled" if self.is_compiled else "eager"
        model = (self.model,) if self.model else ()
        parts = (*model, self.stage, self.tuning, self.strategy, self.precision)
        return " ".join((*parts, f"checkpoint={self.checkpoint}", compiled, f"x{self.count}"))

    @property
    def twin(self) -> str:
        """Name of the setting whose memory is the same: DDP holds as much on one GPU as on 8."""
        is_replicated = self.strategy == "ddp" and self.count > 1
        return dataclasses.replace(self, count=1).name if is_replicated else ""

    @property
    def overrides(self) -> tuple[str, ...]:
        """Values of `--set`."""
        section = self.stage
        return (
            f"{section}.tuning.kind={self.tuning}",
            f"{section}.compute.strategy={self.strategy}",
            f"{section}.compute.checkpoint_blocks={self.checkpoint}",
            f"{section}.compute.compile_blocks={str(self.is_compiled).lower()}",
            f"trainer.precision={self.precision}",
            f"trainer.devices={self.count}",
        )


def settings() -> Iterator[Setting]:
    """Yield every setting that the stages support."""
    ways = (
        ("align", "full", "ddp"),
        ("align", "qlora", "ddp"),
        ("instruct", "full", "fsdp2"),
        ("instruct", "full", "ddp"),
        ("instruct", "lora", "ddp"),
        ("instruct", "qlora", "ddp"),
    )
    for stage, tuning, strategy in ways:
        precisions = ("bf16-mixed", "bf16-true", *(["float8-mixed"] if tuning == "full" else []))
        for precision, checkpoint, is_compiled, count in itertools.product(
            precisions, (0, 1), (False, True), COUNTS
        ):
            yield Setting(
                stage=stage,
                tuning=tuning,
                strategy=strategy,
                precision=precision,
                checkpoint=checkpoint,
                is_compiled=is_compiled,
                count=count,
            )


def ready_made_settings() -> Iterator[Setting]:
    """Yield settings of the ready-made models; their weights are not sharded."""
    ways = itertools.product(READY_MADE, ("lora", "full"), (0, 1), COUNTS)
    for model, tuning, checkpoint, count in ways:
        yield Setting(
            model=model,
            stage="instruct",
            tuning=tuning,
            strategy="ddp",
            precision="bf16-mixed",
            checkpoint=checkpoint,
            is_compiled=False,
            count=count,
        )


def measure(setting: Setting, cache: Path) -> dict[str, Any]:
    """Return the planned and the traced bytes of a setting by part."""
    node, estimator = stage_of(setting, cache)
    planned = planned_bytes(node, estimator, count=setting.count)
    trace = trace_node(node, estimator, count=setting.count)
    return {
        "setting": setting.name,
        "planner_gib": round(sum(planned.values()) / GIB, 3),
        "trace_gib": round(trace.total / GIB, 3),
        "ratio": round(sum(planned.values()) / trace.total, 4),
        "phase": trace.phase,
        "planned": {part: round(value / GIB, 3) for part, value in planned.items()},
        "traced": {part: round(value / GIB, 3) for part, value in trace.parts.items()},
    }


def stage_of(
    setting: Setting, cache: Path, *, profile: str = "paper", more: tuple[str, ...] = ()
) -> tuple[StageNode, Estimator]:
    """Return the first training stage of a profile under a setting, and its estimator."""
    request = GridRequest(
        experiment="vlm_mix_ablation" if setting.model else "mix_ablation",
        profile="modern" if setting.model else profile,
        overrides=(*setting.overrides, *more),
        is_dry_run=True,
    )
    plan = make_plan(request)
    cell = next(cell for cell in plan.cells if setting.model in ("", cell.config.cell.backbone))
    address = plan.graph.cells[cell.cell_id][setting.stage]
    estimator = Estimator(expected_manifests(cell.config), cache)
    return plan.graph.nodes[address], estimator


def write_table(rows: Mapping[str, dict[str, Any]]) -> str:
    """Return the document with one row for each setting."""
    worst = max((abs(row["ratio"] - 1) for row in rows.values()), default=0.0)
    lines = [
        "# Memory: planner and trace",
        "",
        *textwrap.wrap(_EXPLANATION, 118),
        "",
        f"{len(rows)} settings; the largest difference is {worst:.1%} (limit {LIMIT:.0%}).",
        "",
        "| setting | planner | trace | planner / trace | peak in |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['setting']} | {row['planner_gib']:.2f} | {row['trace_gib']:.2f} "
        f"| {row['ratio']:.3f} | {row['phase']} |"
        for row in rows.values()
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure what is missing; the exit status is 1 if a setting differs by more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="settings whose name contains this")
    parser.add_argument("--out", type=Path, default=OUT, help="path of the files without suffix")
    options = parser.parse_args()
    stored = options.out.with_suffix(".json")
    rows = json.loads(stored.read_text()) if stored.is_file() else {}
    with tempfile.TemporaryDirectory() as cache:
        for setting in (*settings(), *ready_made_settings()):
            if options.only in setting.name and setting.name not in rows:
                twin = rows.get(setting.twin)
                row = measure(setting, Path(cache)) if twin is None else twin
                rows[setting.name] = row | {"setting": setting.name}
                print(f"{row['ratio']:.3f} {setting.name}", flush=True)
                stored.write_text(json.dumps(rows, indent=1) + "\n")
                options.out.with_suffix(".md").write_text(write_table(rows))
    too_far = [name for name, row in rows.items() if abs(row["ratio"] - 1) > LIMIT]
    print("\n".join(f"beyond the limit: {name}" for name in too_far))
    return 1 if too_far else 0


if __name__ == "__main__":
    raise SystemExit(main())

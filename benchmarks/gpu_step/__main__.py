"""Measure training steps at the paper's shapes on one GPU, per setting and against LLaVA.

Random weights are created on the device; images are real files, decoded by worker processes. Stage
1 trains the connector, stage 2 the connector and the language model. `benchmarks.gpu_step.flops`
defines how MFU is counted.

    python -m benchmarks.gpu_step
    python -m benchmarks.gpu_step --shape tiny --device cpu    # the same code in seconds
"""

import argparse
import dataclasses
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.gpu_step import report
from benchmarks.gpu_step.baseline import run_hugging_face
from benchmarks.gpu_step.data import Sources, write_sources
from benchmarks.gpu_step.model import SHAPES, Shape, make_chat
from benchmarks.gpu_step.ours import Plan, Timing, levers_of, run_ours
from core.chat.format import ChatFormat

OUT_OF_MEMORY = "out of memory"
FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """Settings that all runs share."""

    shape: Shape
    chat: ChatFormat
    sources: Sources
    peak: float | None
    deadline: float
    """Deadline for starting a run (`time.monotonic`)."""


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print tables; return 1 if a run broke."""
    options = parse(arguments)
    transformers.logging.set_verbosity_error()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    device = torch.device(options.device)
    shape = SHAPES[options.shape]
    content = report.environment(device)
    content |= {"shape": options.shape, "stages": {}}
    name = content["device"].lower().replace("nvidia ", "").replace(" ", "_")
    path = (
        options.out / f"gpu_step_{name}{'' if options.shape == '8b' else '_' + options.shape}.json"
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        sources = write_sources(Path(folder), shape)
        for stage in options.stages:
            share = (options.stages.index(stage) + 1) / len(options.stages)
            bench = Bench(
                shape=shape,
                chat=make_chat(shape),
                sources=sources,
                peak=content["peak_flops"],
                deadline=started + options.seconds * share,
            )
            plan = Plan(
                stage=stage,
                device=device,
                num_warm=options.warm,
                num_timed=options.steps,
                num_workers=options.workers,
                cache=Path(folder) / "cache",
            )
            results: dict[str, dict[str, Any]] = {}
            content["stages"][str(stage)] = results
            for name, run in runs_of(plan, bench, options.levers).items():
                results[name] = measure(run, plan, bench)
                print(f"stage {stage}, {name}: {results[name]['status']}", flush=True)
                report.save(path, content)
            print(f"\nstage {stage} on {content['device']}\n{report.table(results)}")
    content["verdicts"] = {
        str(stage): report.verdict(stage, content["stages"][str(stage)]) for stage in options.stages
    }
    report.save(path, content)
    print("\n".join(line for lines in content["verdicts"].values() for line in lines))
    print(f"written: {path}")
    return int(has_failed(content))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    add = parser.add_argument
    add("--shape", choices=sorted(SHAPES), default="8b")
    add("--device", default="cuda")
    add("--stages", type=int, nargs="+", choices=[1, 2], default=[1, 2])
    add("--levers", nargs="+", default=[], help="names of the runs to do; 'hf trainer' is one")
    add("--warm", type=int, default=2, help="number of untimed warm-up steps")
    add("--steps", type=int, default=4, help="timed steps")
    add("--workers", type=int, default=min(8, os.cpu_count() or 1), help="loader processes")
    add("--seconds", type=float, default=480.0, help="start no run after this time")
    add("--out", type=Path, default=FOLDER, help="folder for the JSON file")
    options = parser.parse_args(arguments)
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; for a check on the CPU: --shape tiny --device cpu")
    if options.warm < 1 or options.steps < 1:
        parser.error(f"--warm {options.warm} and --steps {options.steps} must be at least 1")
    return options


def runs_of(plan: Plan, bench: Bench, only: list[str]) -> dict[str, Callable[[], Timing]]:
    """Return the runs by name, most important first, because time may run out."""
    everything = (plan, bench.shape, bench.chat, bench.sources)
    ours: dict[str, Callable[[], Timing]] = {
        name: lambda lever=lever: run_ours(lever, *everything)  # type: ignore[misc]
        for name, lever in levers_of(plan.stage, plan.device).items()
    }
    best = {"best": ours.pop("best")}
    runs = best | {"hf trainer": lambda: run_baseline(*everything)} | ours
    if unknown := set(only) - set(runs):
        raise SystemExit(f"no runs {sorted(unknown)} in stage {plan.stage}; there are {list(runs)}")
    return {name: run for name, run in runs.items() if not only or name in only}


def run_baseline(plan: Plan, shape: Shape, chat: ChatFormat, sources: Sources) -> Timing:
    """Run the baseline at the largest batch size that fits."""
    for batch_size in shape.hf_batches[:-1]:
        try:
            return run_hugging_face(batch_size, plan, shape, chat, sources)
        except torch.OutOfMemoryError:
            print(f"hf trainer: batch size {batch_size} does not fit", flush=True)
        free_memory(plan.device)
    return run_hugging_face(shape.hf_batches[-1], plan, shape, chat, sources)


def measure(run: Callable[[], Timing], plan: Plan, bench: Bench) -> dict[str, Any]:
    """Return the figures of one run or its failure; a failure never stops the other runs."""
    if time.monotonic() > bench.deadline:
        return {"status": "not run: out of time"}
    free_memory(plan.device)
    try:
        timing = run()
    except torch.OutOfMemoryError:
        return {"status": OUT_OF_MEMORY}
    except Exception as error:  # noqa: BLE001 - a lever that breaks is a result
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        return {"status": f"failed: {type(error).__name__}: {reason}"[:400]}
    is_cuda = plan.device.type == "cuda"
    memory = torch.cuda.max_memory_allocated(plan.device) if is_cuda else None
    return report.numbers(timing, bench.peak, memory)


def free_memory(device: torch.device) -> None:
    """Release the memory of the previous run."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def has_failed(content: dict[str, Any]) -> bool:
    """Return whether a run failed; running out of memory or time is a valid result."""
    runs = [result for results in content["stages"].values() for result in results.values()]
    return not runs or any(result["status"].startswith("failed") for result in runs)


if __name__ == "__main__":
    sys.exit(main())

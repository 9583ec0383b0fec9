"""Snapshots that a refactoring must not change: plans, help texts, and the smoke experiment.

`python -m tests.golden.snapshots` writes the expectations of `test_golden.py` again, for a change
that is meant to alter them. Review the difference before committing it.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import platform
import runpy
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from configuration.grid_request import GridRequest
from configuration.mixture import expected_manifests
from experiments.run_steps.planning import make_plan
from pipeline.graph import StageNode
from planner.estimator import Estimator
from tests.support import small_world as worlds

FOLDER = Path(__file__).parent
PLANS = (
    ("smoke", "embedded"),
    ("mix_ablation", "embedded"),
    ("backbone_ablation", "embedded"),
    ("full_grid", "embedded"),
    ("stage_ablation", "embedded"),
    ("text_only_ablation", "embedded"),
    ("share_amount", "embedded"),
    ("architecture_ablation", "embedded"),
    ("stage_shares", "embedded"),
    ("mix_ablation", "small"),
    ("full_grid", "paper"),
    ("vlm_mix_ablation", "modern"),
)
"""Experiment and profile of each recorded plan."""
COMMANDS = (
    "experiments.run",
    "experiments.report",
    "experiments.advise",
    "experiments.chat",
    "experiments.compare",
    "experiments.export",
    "experiments.inspect_stream",
    "experiments.languages",
    "experiments.store",
    "experiments.sync",
    "experiments.ui",
    "experiments.skypilot",
    "data_prep.embedded",
    "data_prep.index",
    "data_prep.prepare",
    "data_prep.from_llava",
    "data_prep.import_benchmark",
    "data_prep.native_study",
    "data_prep.new_language",
    "data_prep.photographs",
    "data_prep.tower_drawings",
    "data_prep.fixes",
    "data_prep.card",
    "data_prep.small_models",
    "data_prep.culture_images",
    "evaluation.run",
    "evaluation.export_tasks",
    "evaluation.judge",
    "evaluation.contamination",
    "evaluation.people.run",
)
"""Every documented command."""
_SIGNIFICANT = 9
"""Decimal digits of recorded floats: the planner's sums may differ in the last bits."""


def plan_snapshot(experiment: str, profile: str, cache: Path) -> dict[str, Any]:
    """Cells, stage runs, addresses and planned amounts of one experiment.

    Lengths of samples are measured once per cache folder.
    """
    overrides = ("data.out_of_domain=[]",)  # plans do not depend on what this machine has built
    request = GridRequest(
        experiment=experiment, profile=profile, is_dry_run=True, overrides=overrides
    )
    plan = make_plan(request)
    expected = expected_manifests(plan.cells[0].config) if plan.cells else {}
    estimator = Estimator(expected, cache)
    nodes = {address: _node(estimator, node) for address, node in plan.graph.nodes.items()}
    return {"cells": plan.graph.cells, "nodes": nodes}


def _node(estimator: Estimator, node: StageNode) -> dict[str, Any]:
    estimate = node.estimate(estimator)
    load, weights, cost = estimate.load, estimate.weights, estimate.cost
    return {
        "kind": node.kind,
        "title": node.title,
        "inputs": {role: other.address for role, other in node.inputs.items()},
        "steps": load.num_steps,
        "samples": _rounded(load.num_samples),
        "tokens": _rounded(load.num_tokens),
        "epochs": load.epochs,
        "trained": weights.trained,
        "frozen": weights.frozen,
        "flops": None if cost is None else _rounded(cost.flops),
        "memory_gib": None if cost is None else _rounded(cost.memory_gib),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{_SIGNIFICANT}g}")


def help_text(command: str) -> str:
    """Output of `python -m COMMAND --help` at a width of 100 columns, without a new process."""
    output = io.StringIO()
    imported, arguments, columns = (
        sys.modules.pop(command, None),
        sys.argv,
        os.environ.get("COLUMNS"),
    )
    sys.argv, os.environ["COLUMNS"] = [command, "--help"], "100"
    handler, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook  # a command replaces them
    try:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            runpy.run_module(command, run_name="__main__", alter_sys=True)
    finally:
        sys.argv, sys.unraisablehook = arguments, hook
        signal.signal(signal.SIGINT, handler)
        if imported is not None:
            sys.modules[command] = imported
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns
    return output.getvalue()


def processor() -> str:
    """Return the properties of the processor that change the last bits of float32 results."""
    capability = torch.backends.cpu.get_cpu_capability()
    version = torch.__version__.partition("+")[0]
    return f"{platform.machine()} {capability} {_processor_model()} torch {version}"


def _processor_model() -> str:
    """Return family, model and matrix unit, by which the math library chooses its kernels."""
    known = dict.fromkeys(("cpu family", "model", "flags"), "unknown")
    path = Path("/proc/cpuinfo")
    for line in path.read_text().split("\n\n")[0].splitlines() if path.is_file() else ():
        name, _, value = line.partition(":")
        if name.strip() in known:
            known[name.strip()] = value.strip()
    matrix_unit = " amx" if "amx_tile" in known["flags"].split() else ""
    return f"family {known['cpu family']} model {known['model']}{matrix_unit}"


def smoke_snapshot(root: Path) -> dict[str, Any]:
    """Run the experiment `smoke` and summarise its weights and metrics."""
    command = worlds.start(worlds.REPOSITORY, "--exp", "smoke", "--root", str(root))
    code, output = worlds.finish(command, timeout_s=600)
    if code:
        raise RuntimeError(output)
    return summarise(root)


def summarise(root: Path) -> dict[str, Any]:
    """Hashes of the final weights and scores under a root, by kind of stage."""
    found: dict[str, Any] = {}
    for path in sorted(root.glob("store/*/*/result")):
        entry: dict[str, Any] = {}
        if (path / "model.safetensors").is_file():
            entry["weights"] = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
            entry["norms"] = _norms(path / "model.safetensors")
        for name in ("metrics.json", "retention.json"):
            if (path / name).is_file():
                entry[name] = json.loads((path / name).read_text())
        found[path.parents[1].name] = entry
    return found


def _norms(path: Path) -> dict[str, float]:
    tensors = safetensors.torch.load_file(path)
    return {name: float(tensor.double().norm()) for name, tensor in tensors.items()}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a snapshot in the form in which differences can be read."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def main() -> None:
    """Write every expectation again."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.snapshots", description=__doc__)
    parser.add_argument("--skip-smoke", action="store_true", help="keep the smoke experiment's")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        for experiment, profile in PLANS:
            path = FOLDER / "plans" / f"{experiment}-{profile}.json"
            write_json(path, plan_snapshot(experiment, profile, Path(cache)))
    for command in COMMANDS:
        (FOLDER / "help" / f"{command}.txt").write_text(help_text(command))
    if not options.skip_smoke:
        with tempfile.TemporaryDirectory() as root:
            write_json(
                FOLDER / "smoke.json",
                {"processor": processor(), "stages": smoke_snapshot(Path(root))},
            )


if __name__ == "__main__":
    main()

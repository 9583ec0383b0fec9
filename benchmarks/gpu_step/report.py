"""Figures, table and verdict of the GPU step benchmark."""

import datetime
import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_step.flops import peak_of
from benchmarks.gpu_step.ours import FLOAT8, Timing

BARS = {1: ("samples_per_second", 25.0), 2: ("tokens_per_second", 8000.0)}
"""Target of each stage for one H100 SXM at the 8b shape in bf16 (docs/results/performance.md)."""
FLOAT8_BARS = {2: ("tokens_per_second", 10000.0)}
"""The same in float8."""
_PACKAGES = (
    "torch",
    "lightning",
    "transformers",
    "open_clip_torch",
    "bitsandbytes",
    "accelerate",
    "torchao",
)
_REPOSITORY = Path(__file__).parents[2]
_COLUMNS = ("samples_per_second", "tokens_per_second", "mfu", "peak_memory_gib", "first_step_s")


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def environment(device: torch.device) -> dict[str, Any]:
    """Return the device, versions and commit."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"],
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "device": device_name(device),
        "peak_flops": peak_of(device_name(device)),
        "versions": versions,
        "cuda": torch.version.cuda,
        "commit": found.stdout.strip() or "unknown",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def numbers(timing: Timing, peak: float | None, peak_memory: int | None) -> dict[str, Any]:
    """Return the figures of one run as JSON."""
    per_second = timing.flops / timing.seconds
    density = timing.work.tokens / timing.num_positions if timing.num_positions else None
    return {
        "status": "ok",
        "samples_per_second": round(timing.num_samples / timing.seconds, 3),
        "tokens_per_second": round(timing.work.tokens / timing.seconds, 1),
        "images_per_second": round(timing.work.images / timing.seconds, 3),
        "tflops_per_second": round(per_second / 1e12, 4),
        "mfu": None if peak is None else round(per_second / peak, 4),
        "peak_memory_gib": None if peak_memory is None else round(peak_memory / 2**30, 2),
        "density": None if density is None else round(density, 4),
        "first_step_s": round(timing.first_step_s, 2),
        "data_wait_s": None if timing.data_wait_s is None else round(timing.data_wait_s, 3),
        "seconds": round(timing.seconds, 3),
        "optimizer": timing.optimizer,
        "losses": [round(loss, 4) for loss in timing.losses],
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return a table with one line per run of a stage."""
    lines = [f"{'':<24}" + "".join(f"{name:>20}" for name in _COLUMNS) + "  optimizer"]
    for name, result in results.items():
        if result["status"] != "ok":
            lines.append(f"{name:<24}  {result['status']}")
            continue
        cells = ("-" if (value := result[key]) is None else f"{value:,.3f}" for key in _COLUMNS)
        line = f"{name:<24}" + "".join(f"{cell:>20}" for cell in cells)
        lines.append(f"{line}  {result['optimizer']}")
    return "\n".join(lines)


def verdict(stage: int, results: dict[str, dict[str, Any]]) -> list[str]:
    """Return one line per measured ratio and target; the fastest setting counts."""
    best = results.get("best", {})
    if best.get("status") != "ok":
        return [f"stage {stage}: no verdict, the best setting is '{best.get('status', 'not run')}'"]
    lines = []
    theirs = results.get("hf trainer", {})
    if theirs.get("status") == "ok":
        ratio = best["samples_per_second"] / theirs["samples_per_second"]
        lines.append(f"stage {stage}: {ratio:.2f}x the samples/s of the Hugging Face Trainer")
    if best["mfu"] is None:  # an unknown device, which the targets are not for
        return lines
    ours = {
        setting: result
        for setting, result in results.items()
        if setting != "hf trainer" and result["status"] == "ok"
    }
    float8 = {FLOAT8: ours.pop(FLOAT8)} if FLOAT8 in ours else {}
    lines.append(_fastest(stage, ours, *BARS[stage]))
    if float8 and stage in FLOAT8_BARS:
        lines.append(_fastest(stage, float8, *FLOAT8_BARS[stage]))
    return lines


def _fastest(stage: int, runs: dict[str, dict[str, Any]], quantity: str, bar: float) -> str:
    """Return a line that compares the fastest of some runs with a target."""
    setting = max(runs, key=lambda name: runs[name][quantity])
    value = runs[setting][quantity]
    mark = "met" if value >= bar else "MISSED"
    return (
        f"stage {stage}: {quantity} {value:,} with '{setting}' (target {bar:,.0f}, "
        f"{runs[setting]['mfu']:.0%} MFU): {mark}"
    )


def save(path: Path, content: dict[str, Any]) -> None:
    """Write JSON after every run, so that a killed benchmark keeps its results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")

"""Format the results of the stream benchmark as Markdown."""

import statistics
from collections.abc import Sequence
from typing import Any

_MIB = 2**20


def as_markdown(
    numbers: dict[str, dict[str, Any]], *, ours: str, not_compared: Sequence[str]
) -> str:
    """Return the versions and the tables of speed, memory, resuming and scale."""
    lines = ["| | " + " | ".join(_SPEEDS) + " |", "|---" * (len(_SPEEDS) + 1) + "|"]
    for side, found in numbers.items():
        reference = numbers.get(ours) if side not in (ours, *not_compared) else None
        if "decoded" in found:
            lines.append(f"| {side} | " + " | ".join(_speeds(found, reference)) + " |")
    lines += ["", "| one worker | " + " | ".join(_MEMORY) + " |", "|---" * (len(_MEMORY) + 1) + "|"]
    for side, found in numbers.items():
        if "memory" in found:
            lines.append(f"| {side} | " + " | ".join(_memory(found["memory"])) + " |")
    lines += ["", "| resume | " + " | ".join(_RESUME_COLUMNS) + " |", "|---|---|---|"]
    for side, found in numbers.items():
        if "resume" in found:
            outcomes = [value for value in found["resume"].values() if isinstance(value, dict)]
            lines.append(f"| {side} | " + " | ".join(map(_outcome, outcomes)) + " |")
    lines += ["", *(f"- {side}: {_versions(found)}" for side, found in numbers.items())]
    synthetic = numbers.get(ours, {}).get("synthetic", {})
    lines += ["", *(f"- {name}: {value}" for name, value in synthetic.items())]
    return "\n".join(lines)


_SPEEDS = (
    "samples / CPU s, decoded",
    "samples / CPU s, encoded",
    "samples / s, decoded",
    "first batch, cold (s)",
    "of it after imports (s)",
    "seek (s)",
)
_MEMORY = ("USS (MiB)", "PSS (MiB)", "USS growth (MiB)")
_RESUME_COLUMNS = ("same ranks and workers", "other ranks and workers")


def _speeds(found: dict[str, Any], reference: dict[str, Any] | None) -> list[str]:
    return [
        _speed(found["decoded"], reference and reference["decoded"], "per_cpu_second"),
        _speed(found["encoded"], reference and reference["encoded"], "per_cpu_second"),
        _speed(found["decoded"], reference and reference["decoded"], "per_second"),
        f"{_median(found['cold'], 'from_launch'):.2f}",
        f"{_median(found['cold'], 'from_open'):.2f}",
        f"{_median(found['seek'], 'seconds'):.3f}",
    ]


def _memory(found: dict[str, list[int]]) -> list[str]:
    """Return the memory after the first number of samples and its growth."""
    uss, pss = found["uss"], found["pss"]
    return [
        f"{uss[0] / _MIB:.0f}",
        f"{pss[0] / _MIB:.0f}",
        f"{(uss[-1] - uss[0]) / _MIB:+.1f}",
    ]


def _speed(rounds: list[dict[str, float]], ours: list[dict[str, float]] | None, name: str) -> str:
    """Return the median and the median ratio of our side to it over the rounds."""
    median = f"{_median(rounds, name):,.0f}"
    if ours is None:
        return median
    ratios = [ours[name] / peer[name] for ours, peer in zip(ours, rounds, strict=True)]
    return f"{median} (ours {statistics.median(ratios):.2f}x)"


def _median(rounds: list[dict[str, float]], name: str) -> float:
    return statistics.median(one[name] for one in rounds)


def _outcome(outcome: dict[str, Any]) -> str:
    if "refused" in outcome:
        return f"refused: {outcome['refused']}"
    exact = "the same batches" if outcome["same_batches"] else "other batches"
    return f"{outcome['repeated']} repeated, {outcome['lost']} lost, {exact}"


def _versions(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found["prepare"]["versions"].items())

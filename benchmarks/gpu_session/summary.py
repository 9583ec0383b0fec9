"""Report of a GPU session: what passed, what failed, and which targets were met."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of one part."""

    name: str
    seconds: float
    failure: str = ""
    """Why it failed; empty if it passed."""


def markdown(
    device: str, outcomes: Sequence[Outcome], steps: Sequence[Path], memory: Path | None = None
) -> str:
    """Return the report.

    Args:
        device: Name of the GPU, or "CPU".
        outcomes: Results of the parts, in order.
        steps: JSON files of the step benchmark.
        memory: JSON file of measured and traced memory.
    """
    passed = sum(not outcome.failure for outcome in outcomes)
    lines = [
        f"# GPU session on {device}",
        "",
        f"{passed} of {len(outcomes)} parts passed.",
        "",
        "| part | result | time in s |",
        "|---|---|--:|",
    ]
    lines += [
        f"| {outcome.name} | {outcome.failure or 'passed'} | {outcome.seconds:.0f} |"
        for outcome in outcomes
    ]
    if memory is not None:
        lines += _memory_lines(json.loads(memory.read_text(encoding="utf-8")))
    for path in steps:
        lines += _step_lines(json.loads(path.read_text(encoding="utf-8")))
    return "\n".join(lines) + "\n"


def _memory_lines(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["", "## Peak memory of a step, GiB", ""]
    lines += ["| setting | traced | measured | measured / traced | result |"]
    lines += ["|---|--:|--:|--:|---|"]
    for row in rows:
        sizes = " | ".join(f"{row[key] / 2**30:.3f}" for key in ("traced", "measured"))
        ratio = row["measured"] / row["traced"]
        lines.append(f"| {row['setting']} | {sizes} | {ratio:.3f} | {row['failure'] or 'ok'} |")
    return lines


def _step_lines(content: dict[str, Any]) -> list[str]:
    lines = ["", f"## Training step, shape {content['shape']}, on {content['device']}"]
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    lines += ["", f"Commit {content['commit']}; {versions}.", ""]
    lines += ["| stage | setting | samples/s | tokens/s | MFU | peak GiB | result |"]
    lines += ["|--:|---|--:|--:|--:|--:|---|"]
    for stage, results in content["stages"].items():
        for name, result in results.items():
            keys = ("samples_per_second", "tokens_per_second", "mfu", "peak_memory_gib")
            cells = ("" if result.get(key) is None else f"{result[key]:,}" for key in keys)
            lines.append(f"| {stage} | {name} | {' | '.join(cells)} | {result['status']} |")
    targets = [line for verdict in content.get("verdicts", {}).values() for line in verdict]
    return [*lines, "", *(f"* {line}" for line in targets)]

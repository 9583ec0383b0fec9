"""Table of the scores of the language models without images."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.store.records import StageRecord
from reporting.records import CellRecord, GridRecord

_NORMAL_95 = 1.96


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionTable:
    """Scores of the language models without images, and their change by the training."""

    tasks: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    """Cell or backbone, and its formatted score per task."""


def retention_table(grid: GridRecord) -> RetentionTable:
    """Return one row per backbone, then one per cell with its change from the backbone."""
    before: dict[str, StageRecord] = {}
    after: list[tuple[CellRecord, StageRecord]] = []
    for cell in grid.cells:
        if (stage := cell.stages.get("backbone")) is not None and stage.retention:
            before[stage.address] = stage
        if (stage := cell.stages.get("retention")) is not None and stage.retention:
            after.append((cell, stage))
    found = [*before.values(), *(stage for _, stage in after)]
    tasks = tuple(dict.fromkeys(task for stage in found for task in stage.retention))
    names = _name_backbones(before.values())
    rows = [
        (f"{names[stage.address]}, before training",
         tuple(_format_retention(stage.retention.get(task)) for task in tasks))
        for stage in before.values()
    ]  # fmt: skip
    for cell, stage in after:
        own = cell.stages["backbone"].retention if "backbone" in cell.stages else {}
        texts = (_format_retention(stage.retention.get(task), own.get(task)) for task in tasks)
        rows.append((cell.cell_id, tuple(texts)))
    return RetentionTable(tasks=tasks, rows=tuple(rows))


def _name_backbones(stages: Collection[StageRecord]) -> dict[str, str]:
    """Name language models by their axis, or in full where models of one name differ."""
    names = {
        stage.address: str(stage.params.get("backbone") or stage.params.get("cell.backbone")
                           or "backbone") for stage in stages
    }  # fmt: skip
    counts = Counter(names.values())
    titles = {stage.address: stage.title for stage in stages}
    return {
        address: name if counts[name] == 1 else titles[address] or f"{name} {address[:8]}"
        for address, name in names.items()
    }


def _format_retention(
    found: Mapping[str, Any] | None, before: Mapping[str, Any] | None = None
) -> str:
    if found is None:
        return ""
    is_bits = found["metric"] == "bits_per_byte"
    scale, unit = (1.0, " bits/byte") if is_bits else (100.0, " %")
    digits = 3 if is_bits else 1
    text = f"{scale * found['value']:.{digits}f}{unit}"
    if found["stderr"]:
        text += f" \N{PLUS-MINUS SIGN} {_NORMAL_95 * scale * found['stderr']:.{digits}f}"
    if found.get("num_truncated"):
        text += f", {found['num_truncated']} prompts cut"
    if before is not None:
        text += f" ({scale * (found['value'] - before['value']):+.{digits}f})"
    return text

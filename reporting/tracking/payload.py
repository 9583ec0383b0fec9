"""What MLflow gets to see of a grid and a stage: names, parameters, metrics, files.

Pure functions from records to plain values, so that what is shown is tested without a server.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq

from configuration.axes import AxisValue
from core.config import dump_config
from core.io.jsonl import read_jsonl_from
from datamodules.batches.bad_samples import SUMMARY_NAME
from pipeline.store.records import StageRecord
from reporting.records import CellRecord, GridRecord

MAX_TABLE_ROWS = 2000
"""Rows of the per-item table in the browser; the parquet file beside it holds all."""

_MAX_TAG_CHARS = 5000
_TABLE_COLUMNS = (
    "benchmark", "language", "answer_type", "question", "answers", "output", "parsed", "score",
    "language_identified", "image_key", "question_id",
)  # fmt: skip


def valid_name(name: str) -> str:
    """A metric or parameter name MLflow accepts."""
    return re.sub(r"[^\w\-./ ]", "_", name)[:250]


def to_json(value: object) -> str:
    """Readable JSON."""
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)


def run_name(stage: StageRecord, cells: Sequence[CellRecord]) -> str:
    """A stage's name in lists: that of its cell, where it has only one."""
    if len(cells) == 1:
        return f"{stage.kind} {cells[0].cell_id}"
    return stage.title or f"{stage.kind} {stage.address[:8]}"


def grid_tags(grid: GridRecord) -> dict[str, str]:
    """Tags of the parent run."""
    tags = {"experiment": grid.experiment, "profile": grid.profile, "cells": str(len(grid.cells))}
    note = f"**{grid.title}**: {len(grid.cells)} cells. Summary and figures: artifacts, `report/`."
    return tags | _git_tags(grid) | {"mlflow.note.content": note}


def stage_tags(grid: GridRecord, stage: StageRecord, cells: Sequence[CellRecord]) -> dict[str, str]:
    """Tags of a child run."""
    cell_ids = ", ".join(cell.cell_id for cell in cells)
    tags = {"kind": stage.kind, "address": stage.address, "cells": cell_ids[:_MAX_TAG_CHARS]}
    return tags | _git_tags(grid)


def stage_params(stage: StageRecord, cells: Sequence[CellRecord]) -> dict[str, str]:
    """The stage's own parameters and the axes on which all of its cells agree.

    So an evaluation, which has one cell, carries all axes: what MLflow needs to draw a score over
    `target_share`; a shared stage carries only what is true of it.
    """
    params: dict[str, AxisValue] = dict(stage.params)
    names = cells[0].axes if cells else {}
    for name in names:
        values = {cell.axes.get(name) for cell in cells}
        if len(values) == 1:
            params[name] = cells[0].axes[name]
    return {valid_name(k): _param_text(v) for k, v in params.items()}


def final_metrics(stage: StageRecord, target_language: str) -> dict[str, float]:
    """Scores with the ends of their interval and their baselines, and what the stage cost.

    MLflow's comparison draws the metric that was logged first: the main one.
    """
    main = f"vqa/{target_language}/accuracy"
    values: dict[str, float | None] = {}
    for name, score in sorted(stage.scores.items(), key=lambda pair: (pair[0] != main, pair[0])):
        values[name] = score.value
        if "/type/" in name:
            continue  # dozens of question types: their intervals are in predictions/metrics.json
        values[f"{name}_low"], values[f"{name}_high"] = score.ci_low, score.ci_high
        values[f"{name}_majority"], values[f"{name}_blind"] = score.majority, score.blind
    values |= {"wall_s": stage.wall_s, "max_rss_mb": stage.max_rss_mb}
    return {valid_name(k): float(v) for k, v in values.items() if v is not None}


def stage_texts(grid: GridRecord, stage: StageRecord) -> dict[str, str]:
    """What explains a run: its configuration, its data, its versions."""
    data = {"manifests": dict(stage.data), "upstream": dict(stage.upstream)}
    return {
        "config/resolved.yaml": dump_config(stage.config),
        "data.json": to_json(data),
        "versions.json": to_json({"git_commit": grid.git_commit, **grid.versions}),
    }


def stage_files(stage: StageRecord) -> list[tuple[Path, str]]:
    """Files of a finished stage that go along, each with its folder; weights stay in the store."""
    result = stage.folder / "result"
    files = [(stage.predictions, "predictions"), (result / "metrics.json", "predictions")]
    files += [(result / "freeze_report.txt", "model"), (result / SUMMARY_NAME, "data")]
    figures = [(p, "figures") for s in ("png", "svg") for p in sorted(result.glob(f"*.{s}"))]
    return [(path, folder) for path, folder in files + figures if path.is_file()]


def items_table(predictions: Path) -> tuple[dict[str, list[Any]], str]:
    """The per-item table for the browser and its file name, which says where it was cut."""
    present = pq.read_schema(predictions).names
    table = pq.read_table(predictions, columns=[c for c in _TABLE_COLUMNS if c in present])
    columns = table.slice(0, MAX_TABLE_ROWS).to_pydict()
    plain = {name: [_cell_text(v) for v in values] for name, values in columns.items()}
    cut = f"-first-{MAX_TABLE_ROWS}" if table.num_rows > MAX_TABLE_ROWS else ""
    return plain, f"items{cut}.json"


def curves(grid: GridRecord) -> dict[str, dict[int, float]]:
    """Accuracy over the share in percent, one curve per metric and setting, mean over seeds."""
    shares = {cell.axes.get("target_share") for cell in grid.cells}
    if len(shares) <= 1:
        return {}
    points: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in grid.cells:
        if cell.evaluation is None or "target_share" not in cell.axes:
            continue
        percent = round(100 * float(cell.axes["target_share"] or 0.0))
        for name, score in cell.evaluation.scores.items():
            if name.endswith("/accuracy"):
                key = valid_name(f"over_share/{name}/{_setting(cell.axes)}")
                points[key][percent].append(score.value)
    return {key: {x: fmean(ys) for x, ys in sorted(p.items())} for key, p in points.items()}


def new_lines(
    path: Path, position: Mapping[str, int]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Complete lines after a position, and the position after them.

    A resume replaces the file, which its inode tells; then it is read from the start again.
    """
    inode = path.stat().st_ino
    offset = position["offset"] if inode == position["inode"] else 0
    lines, end = read_jsonl_from(path, offset)
    return lines, {"inode": inode, "offset": end}


def _git_tags(grid: GridRecord) -> dict[str, str]:
    return {"mlflow.source.git.commit": grid.git_commit, "git_dirty": str(grid.git_dirty).lower()}


def _setting(axes: Mapping[str, AxisValue]) -> str:
    text = "text_only" if axes.get("text_only") else "no_text_only"
    return "-".join([str(axes.get("backbone", "model")), text])


def _param_text(value: AxisValue) -> str:
    return (str(value).lower() if isinstance(value, bool) else str(value))[:6000]


def _cell_text(value: object) -> object:
    if isinstance(value, str) or not isinstance(value, Iterable):
        return value
    return " | ".join(dict.fromkeys(str(item) for item in value))

"""Names, parameters, metrics and files that represent a grid and its stage runs in MLflow.

All functions are pure, from records to plain values, and can be tested without a server.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq

from configuration.axes import AxisValue, short_names
from core.config import dump_config
from core.io.jsonl import read_jsonl_from
from core.io.reading import reading
from datamodules.batches.bad_samples import SUMMARY_NAME
from datamodules.batches.target_data import EXPOSURES_FILE, TARGET_DATA_FILE
from datamodules.shards.manifest import SUFFIX
from pipeline.store.records import StageRecord
from reporting.records import CellRecord, GridRecord
from reporting.series import View, view_of
from reporting.settings import SHARE, Setting, setting_of, share_of
from reporting.tracking.client import Dataset, DatasetInput, InputTag

MAX_TABLE_ROWS = 2000
"""Maximum number of rows of the per-item table; the parquet artifact contains all rows."""

_MAX_TAG_CHARS = 5000
_MAX_DIGEST = 36
"""Length of the digest of a dataset in MLflow's database."""
_CONTEXTS = {"evaluate": "evaluation", "out_of_domain": "evaluation"}
"""Stage kind -> purpose of its data."""
_TABLE_COLUMNS = (
    "benchmark", "language", "answer_type", "question", "answers", "output", "parsed", "score",
    "language_identified", "is_truncated", "image_key", "question_id",
)  # fmt: skip


def valid_name(name: str) -> str:
    """Return a metric or parameter name that MLflow accepts."""
    return re.sub(r"[^\w\-./ ]", "_", name)[:250]


def to_json(value: object) -> str:
    """Format a value as indented JSON."""
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)


def run_name(stage: StageRecord, cells: Sequence[CellRecord]) -> str:
    """Return the display name of a stage run, after its cell if only one cell uses it."""
    if len(cells) == 1:
        return f"{stage.kind} {cells[0].cell_id}"
    return stage.title or f"{stage.kind} {stage.address[:8]}"


def grid_tags(grid: GridRecord) -> dict[str, str]:
    """Return the tags of the parent run."""
    tags = {"experiment": grid.experiment, "profile": grid.profile, "cells": str(len(grid.cells))}
    note = (
        f"**{grid.title}**: {len(grid.cells)} cells. The artifact folder `report/` contains "
        "the report and its figures."
    )
    return tags | _git_tags(grid) | {"mlflow.note.content": note}


def stage_tags(grid: GridRecord, stage: StageRecord, cells: Sequence[CellRecord]) -> dict[str, str]:
    """Return the tags of a child run."""
    cell_ids = ", ".join(cell.cell_id for cell in cells)
    tags = {"kind": stage.kind, "address": stage.address, "cells": cell_ids[:_MAX_TAG_CHARS]}
    return tags | _git_tags(grid)


def stage_params(stage: StageRecord, cells: Sequence[CellRecord]) -> dict[str, str]:
    """Return the parameters of a stage run, and the axes and fields on which its cells agree.

    An evaluation belongs to one cell and therefore has all axes, so that MLflow can plot scores
    over any of them; a shared stage run has only the axes whose values its cells share.
    """
    params: dict[str, AxisValue] = dict(stage.params)
    known = [{**cell.axes, **cell.fields} for cell in cells]
    for name in known[0] if known else {}:
        if len({values.get(name) for values in known}) == 1:
            params[name] = known[0][name]
    return {valid_name(k): _format_param(v) for k, v in params.items()}


def changed_params(grid: GridRecord) -> dict[str, str]:
    """Return the configuration values that the command changed, which all its runs have."""
    return {valid_name(name): _format_param(value) for name, value in grid.changed.items()}


def dataset_inputs(stage: StageRecord) -> list[DatasetInput]:
    """Return the data that a stage run read, as the datasets of MLflow.

    Weights and other files are in `data.json` alone.
    """
    tag = InputTag("mlflow.data.context", _CONTEXTS.get(stage.kind, "training"))
    return [
        DatasetInput(
            Dataset(
                name=Path(path).name.removesuffix(SUFFIX),
                digest=digest[:_MAX_DIGEST],
                source_type="local",
                source=json.dumps({"uri": path}),
            ),
            [tag],
        )
        for path, digest in sorted(stage.data.items())
        if path.endswith(SUFFIX)
    ]


def final_metrics(stage: StageRecord, target_language: str) -> dict[str, float]:
    """Return the scores with their intervals and baselines, and the cost of the stage run.

    The main metric comes first, because MLflow's comparison plots the metric logged first.
    """
    main = f"vqa/{target_language}/accuracy"
    values: dict[str, float | None] = {}
    for name, score in sorted(stage.scores.items(), key=lambda pair: (pair[0] != main, pair[0])):
        values[name] = score.value
        if "/type/" in name:
            continue  # intervals of the many question types are in predictions/metrics.json only
        values[f"{name}_low"], values[f"{name}_high"] = score.ci_low, score.ci_high
        values[f"{name}_majority"], values[f"{name}_blind"] = score.majority, score.blind
    if stage.target_data is not None:
        for part, amount in asdict(stage.target_data).items():
            if isinstance(amount, dict):
                values |= {f"data/{part}/{name}": value for name, value in amount.items()}
    values |= {"wall_s": stage.wall_s, "max_rss_mb": stage.max_rss_mb}
    return {valid_name(k): float(v) for k, v in values.items() if v is not None}


def stage_texts(grid: GridRecord, stage: StageRecord) -> dict[str, str]:
    """Return the text artifacts of a stage run: its configuration, data and versions."""
    data = {"manifests": dict(stage.data), "upstream": dict(stage.upstream)}
    return {
        "config/resolved.yaml": dump_config(stage.config),
        "data.json": to_json(data),
        "versions.json": to_json({"git_commit": grid.git_commit, **grid.versions}),
    }


def stage_files(stage: StageRecord) -> list[tuple[Path, str]]:
    """Return the files to upload and their artifact folders; weights stay in the store."""
    result = stage.folder / "result"
    files = [(stage.predictions, "predictions"), (result / "metrics.json", "predictions")]
    files += [(result / "freeze_report.txt", "model"), (result / SUMMARY_NAME, "data")]
    files += [(result / TARGET_DATA_FILE, "data"), (result / EXPOSURES_FILE, "data")]
    figures = [(p, "figures") for s in ("png", "svg") for p in sorted(result.glob(f"*.{s}"))]
    return [(path, folder) for path, folder in files + figures if path.is_file()]


def items_table(predictions: Path) -> tuple[dict[str, list[Any]], str]:
    """Return the per-item table and its file name, which states where the table was truncated."""
    with reading(predictions, fix="delete the result folder to run the evaluate stage again"):
        present = pq.read_schema(predictions).names
        table = pq.read_table(predictions, columns=[c for c in _TABLE_COLUMNS if c in present])
    columns = table.slice(0, MAX_TABLE_ROWS).to_pydict()
    plain = {name: [_flatten_cell(v) for v in values] for name, values in columns.items()}
    cut = f"-first-{MAX_TABLE_ROWS}" if table.num_rows > MAX_TABLE_ROWS else ""
    return plain, f"items{cut}.json"


def curves(grid: GridRecord) -> dict[str, dict[int, float]]:
    """Return accuracy over share in percent, per metric and setting, averaged over seeds.

    In a grid with one share, it is over the axis of the figures, if its values are whole numbers:
    MLflow draws metrics over steps.
    """
    view = view_of(grid)
    axis = SHARE if len(view.shares) > 1 else view.x_axis
    if axis != SHARE and not all(isinstance(x, int) for x in view.varying.get(axis, (0.0,))):
        return {}
    prefix = "over_share" if axis == SHARE else f"over_{view.titles[axis]}"
    points: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in grid.cells:
        if cell.evaluation is None:
            continue
        own = dict(setting_of(cell))
        x = round(100 * share_of(cell)) if axis == SHARE else int(str(own.pop(axis)))
        setting = _name_setting(view, tuple(own.items()))
        for name, score in cell.evaluation.scores.items():
            if name.endswith("/accuracy"):
                key = valid_name("/".join(filter(None, (prefix, name, setting))))
                points[key][x].append(score.value)
    return {key: {x: fmean(ys) for x, ys in sorted(p.items())} for key, p in points.items()}


def new_lines(
    path: Path, position: Mapping[str, int]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the complete lines after a position, and the position after them.

    A resume replaces the file. The change is detected by its inode, and the new file is read from
    the start.
    """
    inode = path.stat().st_ino
    offset = position["offset"] if inode == position["inode"] else 0
    lines, end = read_jsonl_from(path, offset)
    return lines, {"inode": inode, "offset": end}


def _git_tags(grid: GridRecord) -> dict[str, str]:
    return {"mlflow.source.git.commit": grid.git_commit, "git_dirty": str(grid.git_dirty).lower()}


def _name_setting(view: View, setting: Setting) -> str:
    """Name a setting by its varying axes, in characters that MLflow accepts."""
    varying, titles = view.varying, short_names(dict(setting))
    return "-".join(
        f"{titles[name]}_{_format_param(value)}" for name, value in setting if name in varying
    )


def _format_param(value: AxisValue) -> str:
    return (str(value).lower() if isinstance(value, bool) else str(value))[:6000]


def _flatten_cell(value: object) -> object:
    if isinstance(value, str) or not isinstance(value, Iterable):
        return value
    return " | ".join(dict.fromkeys(str(item) for item in value))

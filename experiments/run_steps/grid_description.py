"""Description of a grid (`grid.json`), and the check that a command continues the same grid."""

import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configuration.axes import AxisValue, flatten
from configuration.grid_request import GridRequest
from configuration.mixture import benchmark_manifests, expected_manifests
from core.config import to_plain
from core.errors import ConfigError
from core.io.files import sha256_file
from core.packages import package_versions
from datamodules.shards.manifest import SUFFIX
from pipeline.grid_plan import GridPlan
from pipeline.stages.training import TrainingStage
from pipeline.store.registration import Registration
from planner.estimator import Estimator

_EXECUTION_PREFIX = "trainer."
"""Overrides of these fields change where and how fast a grid runs, not what it computes."""
EXPERIMENT_COPY = "experiment.py"
"""File in a grid's folder: a copy of an experiment that is a file of the user."""
_MODEL_PREFIX = "model."
"""Fields of the model other than its backbone, which is a field of the cell."""
_MAX_SHOWN = 4
_MAX_NAME = 100


def describe_grid(
    request: GridRequest, plan: GridPlan, registration: Registration | None
) -> dict[str, Any]:
    """Return the description of a grid that the report and MLflow read."""
    return {
        "experiment": request.experiment,
        "experiment_sha256": _file_hash(request),
        "experiment_hypotheses": sorted(plan.hypotheses),
        "profile": request.profile,
        "overrides": _result_overrides(request),
        "title": _title(request),
        "created": time.time(),
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": bool(git("status", "--porcelain")),
        "versions": package_versions(),
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "registration": None if registration is None else registration.to_json(),
        **_describe_cells(plan, request.root / "cache"),
    }


def check_continues(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a grid does not replace another one in the same folder.

    A grid may gain cells. It may also compute cells again after a change of the code or the data,
    but not because of other overrides.

    Args:
        name: Name of the grid's folder.
        before: Description of the grid in the folder; empty if there is none.
        now: Description of the grid that is about to start.

    Raises:
        ConfigError: If the folder belongs to another experiment, to other overrides, or to cells
            that the command leaves out.
    """
    if not before:
        return
    kept = set(before.get("overrides", []))
    new_values = [one for one in now.get("overrides", []) if one not in kept]
    other = derived_name({**now, "overrides": new_values})
    other = f"{other}-2" if other == name else other
    fix = f"store this grid under another name, for example with --name {other}"
    for field in ("experiment", "profile"):
        if before[field] != now[field]:
            raise ConfigError(
                f"grid '{name}' belongs to {field} '{before[field]}', not '{now[field]}'; {fix}"
            )
    old, new = ({cell["cell_id"]: cell for cell in grid["cells"]} for grid in (before, now))
    if left_out := [cell for cell in old if cell not in new]:
        shown = ", ".join(left_out[:_MAX_SHOWN])
        raise ConfigError(
            f"grid '{name}' also has {len(left_out)} cells that this command lacks ({shown}); "
            "use the options --set, --seeds and --replicate of the earlier command (--only runs a "
            f"part of a grid), or {fix}"
        )
    differs = before.get("stages") != now.get("stages") or any(
        old[cell]["stages"] != new[cell]["stages"] for cell in old
    )
    if differs and before.get("overrides", []) != now["overrides"]:
        old_values = [one for one in before.get("overrides", []) if one not in now["overrides"]]
        first, second = (" ".join(x) or "(nothing)" for x in (old_values, new_values))
        shared = " besides what both have in common" if kept & set(now["overrides"]) else ""
        raise ConfigError(
            f"grid '{name}' was run with --set {first}, this command has --set {second}{shared}, "
            f"which changes results; {fix}"
        )


def derived_name(grid: Mapping[str, Any]) -> str:
    """Return a name that tells a grid from those with other overrides.

    Args:
        grid: Description of the grid.
    """
    values = [
        f"{key.rpartition('.')[2]}={value}"
        for key, _, value in (one.partition("=") for one in grid.get("overrides", []))
    ]
    name = "-".join((grid["experiment"], grid["profile"], *values))
    return re.sub(r"[^\w.=+-]+", "_", name)[:_MAX_NAME].rstrip("_")


def git(*arguments: str) -> str:
    """Return the output of a git command; empty without git or outside of a repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _file_hash(request: GridRequest) -> str | None:
    """Return the hash of an experiment's own file, which the commit does not cover; else None."""
    return None if request.experiment_file is None else sha256_file(request.experiment_file)


def _result_overrides(request: GridRequest) -> list[str]:
    return sorted(one for one in request.overrides if not one.startswith(_EXECUTION_PREFIX))


def _title(request: GridRequest) -> str:
    title = f"{request.experiment} ({request.profile})"
    if request.name:
        title = f"{request.name}: {title}"
    overrides = _result_overrides(request)
    return f"{title} with {', '.join(overrides)}" if overrides else title


def common_fields(plan: GridPlan) -> dict[str, AxisValue]:
    """Return the configuration fields in which all cells agree."""
    first, *others = (flatten(cell.config) for cell in plan.cells)
    return {
        path: value
        for path, value in first.items()
        if not path.startswith(_EXECUTION_PREFIX)
        and all(path in other and other[path] == value for other in others)
    }


def _training_sizes(plan: GridPlan, cache_folder: Path) -> dict[str, dict[str, Any]]:
    """Return address -> size of every training stage, if cells differ in their models."""
    paths = {path for cell in plan.cells for path in (*cell.axes, *cell.fields)}
    if not any(path.startswith(_MODEL_PREFIX) for path in paths):
        return {}
    estimator = Estimator(expected_manifests(plan.cells[0].config), cache_folder)
    return {
        address: to_plain(estimator.training_size(node.stage, has_tower=node.has_tower))
        for address, node in plan.full_graph.nodes.items()
        if isinstance(node.stage, TrainingStage)
    }


def _describe_cells(plan: GridPlan, cache_folder: Path) -> dict[str, object]:
    """Describe all cells: with `--only`, the report keeps the results of the other cells."""
    if not plan.cells:
        return {"cells": [], "stages": sorted(plan.full_graph.nodes)}
    first, sizes = plan.cells[0].config, _training_sizes(plan, cache_folder)
    cells = [
        {
            "cell_id": cell.cell_id,
            "axes": cell.axes,
            "fields": cell.fields,
            "target_share": plan.full_graph.target_shares.get(
                cell.cell_id, cell.config.cell.target_share
            ),
            "stages": plan.full_graph.cells[cell.cell_id],
            "training_sizes": {
                kind: sizes[address]
                for kind, address in plan.full_graph.cells[cell.cell_id].items()
                if address in sizes
            },
        }
        for cell in plan.cells
    ]
    return {
        "languages": to_plain(first.languages),
        "benchmarks": [path.removesuffix(SUFFIX) for path in benchmark_manifests(first)],
        "common": common_fields(plan),
        "deciding_metric": first.report.deciding_metric.value,
        "cells": cells,
    }

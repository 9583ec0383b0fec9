"""What a grid left on disk, read into records: the only place that knows the store's files.

The report and the tracker read the same records, so a page and MLflow can't disagree. A grid may be
unfinished in any way: a stage that was never started has the state `waiting`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import DataError
from datamodules.batches.bad_samples import SUMMARY_NAME
from evaluation import canaries, retention
from pipeline.store.states import State

Axis = str | float | int | bool

STAGE_ORDER = (
    "tokenizer",
    "tower",
    "pretrain",
    "features",
    "backbone",
    "align",
    "instruct",
    "retention",
    "evaluate",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One metric of an evaluation, in percent, with its interval and its baselines."""

    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    num_images: int | None = None
    majority: float | None = None
    blind: float | None = None
    chance: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecord:
    """One stage folder of the store."""

    folder: Path
    kind: str
    address: str
    title: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Axis] = field(default_factory=dict)
    upstream: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    state: State = State.WAITING
    started: float | None = None
    ended: float | None = None
    wall_s: float = 0.0
    attempts: int = 0
    error: str = ""
    failures: tuple[Mapping[str, Any], ...] = ()
    """Every failure, oldest first (`pipeline.store.retry_policy.Failure`)."""
    max_rss_mb: float | None = None
    steps: int = 0
    scores: Mapping[str, Score] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Source -> fault -> samples that a training could not use (`batches.bad_samples`)."""

    canaries: Mapping[str, Any] = field(default_factory=dict)
    """What an evaluation's checks found (`evaluation.canaries`); empty before they were made."""

    retention: Mapping[str, Any] = field(default_factory=dict)
    """Task -> score of the language model alone (`evaluation.retention`)."""

    @property
    def predictions(self) -> Path:
        """Per-item scores of an evaluation (may be absent)."""
        return self.folder / "result" / "predictions.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRecord:
    """One cell of a grid: its place on the axes and the stages it needs."""

    cell_id: str
    axes: Mapping[str, Axis]
    stages: Mapping[str, StageRecord]

    @property
    def evaluation(self) -> StageRecord | None:
        """The finished evaluation, if there is one."""
        stage = self.stages.get("evaluate")
        return stage if stage is not None and stage.scores else None


@dataclass(frozen=True, kw_only=True, slots=True)
class GridRecord:
    """One grid: its cells and what it ran with."""

    folder: Path
    experiment: str
    profile: str
    title: str
    created: float
    """When the grid was last started, Unix time."""
    git_commit: str
    git_dirty: bool
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    base_language: str
    target_language: str
    benchmark: str
    """The benchmark's manifest without its ending."""
    cells: tuple[CellRecord, ...]

    @property
    def name(self) -> str:
        """The grid's name: experiment and profile."""
        return f"{self.experiment}-{self.profile}"

    def stages(self) -> list[StageRecord]:
        """Every stage once, in the order of the pipeline."""
        seen = {s.address: s for cell in self.cells for s in cell.stages.values()}
        return sorted(seen.values(), key=lambda s: (_rank(s.kind), s.started or 9e18, s.address))

    def cells_of(self, address: str) -> list[CellRecord]:
        """The cells that use a stage."""
        return [c for c in self.cells if any(s.address == address for s in c.stages.values())]


def grid_folder(root: Path, experiment: str, profile: str) -> Path:
    """Where a grid's description lies."""
    return root / "grids" / f"{experiment}-{profile}"


def load_grid(root: Path, experiment: str, profile: str) -> GridRecord:
    """Read a grid and all its stages.

    Raises:
        DataError: the grid was never run under this root, or its file is damaged.
    """
    folder = grid_folder(root, experiment, profile)
    if not (folder / "grid.json").is_file():
        found = sorted(p.parent.name for p in root.glob("grids/*/grid.json"))
        raise DataError(
            f"no grid '{folder.name}' under {root}; found: {', '.join(found) or 'none'}. "
            f"Run it first: python -m experiments.run --exp {experiment} --profile {profile}"
        )
    raw = read_json(folder / "grid.json")
    return GridRecord(
        folder=folder,
        experiment=experiment,
        profile=profile,
        title=raw.get("title") or experiment,
        created=float(raw.get("created") or 0.0),
        git_commit=raw.get("git_commit") or "unknown",
        git_dirty=bool(raw.get("git_dirty")),
        versions=raw.get("versions") or {},
        machine=raw.get("machine") or {},
        base_language=(raw.get("languages") or {}).get("base", "en"),
        target_language=(raw.get("languages") or {}).get("target", "eu"),
        benchmark=raw.get("benchmark") or "",
        cells=tuple(_load_cell(root / "store", cell) for cell in raw["cells"]),
    )


def load_stage(folder: Path) -> StageRecord:
    """Read one stage folder; what isn't there yet has its default."""
    about = read_json(folder / "stage.json", default={})
    status = read_json(folder / "status.json", default={})
    progress = read_json(folder / "progress.json", default={})
    metrics = read_json(folder / "result" / "metrics.json", default={}).get("metrics", {})
    return StageRecord(
        folder=folder,
        kind=about.get("kind", folder.parent.name),
        address=about.get("address", folder.name),
        title=about.get("title", ""),
        config=about.get("config", {}),
        params=about.get("params", {}),
        upstream=about.get("upstream", {}),
        data=about.get("data", {}),
        state=State(status.get("state", State.WAITING)),
        started=status.get("started") or None,
        ended=status.get("ended") or None,
        wall_s=status.get("wall_s") or 0.0,
        attempts=status.get("attempts") or 0,
        error=status.get("error") or "",
        failures=tuple(status.get("failures") or ()),
        max_rss_mb=status.get("max_rss_mb") or None,
        steps=progress.get("step") or 0,
        scores={name: _load_score(score) for name, score in metrics.items()},
        left_out=read_json(folder / "result" / SUMMARY_NAME, default={}),
        retention=read_json(folder / "result" / retention.FILE_NAME, default={}),
        canaries=read_json(folder / "result" / canaries.FILE_NAME, default={}),
    )


def read_json(path: Path, *, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: damaged, or absent with no default.
    """
    if default is not None and not path.is_file():
        return default
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read ({error}); run the stage again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {type(content).__name__}, expected an object")
    return content


def _load_cell(store: Path, raw: Mapping[str, Any]) -> CellRecord:
    stages = {kind: load_stage(store / kind / addr) for kind, addr in raw["stages"].items()}
    return CellRecord(cell_id=raw["cell_id"], axes=raw["axes"], stages=stages)


def _load_score(raw: Mapping[str, Any] | float) -> Score:
    if not isinstance(raw, Mapping):
        return Score(value=float(raw))
    known = {name: raw.get(name) for name in Score.__dataclass_fields__ if name != "value"}
    return Score(value=float(raw["value"]), **known)


def _rank(kind: str) -> int:
    return STAGE_ORDER.index(kind) if kind in STAGE_ORDER else len(STAGE_ORDER)

"""Records of a grid and its cells, read from `grid.json` and the store.

A grid may be unfinished in any way; its stage runs are then in the state `waiting` or `failed`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configuration.axes import AxisValue
from core.errors import DataError
from core.io.reading import reading
from pipeline.store.notes import read_grid_json
from pipeline.store.records import StageRecord, load_stage
from pipeline.store.registration import Registration
from planner.estimator import TrainingSize

_STAGE_ORDER = (
    "tokenizer",
    "tower",
    "distilled_tower",
    "pretrain",
    "features",
    "out_of_domain_features",
    "backbone",
    "align",
    "instruct",
    "retention",
    "evaluate",
    "out_of_domain",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRecord:
    """One cell of a grid: its value on every axis and its stage runs."""

    cell_id: str
    axes: Mapping[str, AxisValue]
    stages: Mapping[str, StageRecord]
    target_share: float
    """Share of the target language in the image data of stage 2: that of the configuration, or the
    one that its number of samples means."""
    fields: Mapping[str, AxisValue] = field(default_factory=dict)
    """Configuration fields that are no axes because the cell's named variants set them."""
    training_sizes: Mapping[str, TrainingSize] = field(default_factory=dict)
    """Training stage -> its planned size, in grids whose cells differ in their models."""

    @property
    def evaluation(self) -> StageRecord | None:
        """The finished evaluation, or None."""
        stage = self.stages.get("evaluate")
        return stage if stage is not None and stage.scores else None


@dataclass(frozen=True, kw_only=True, slots=True)
class GridRecord:
    """One grid: its cells, code version and machine."""

    folder: Path
    experiment: str
    profile: str
    title: str
    created: float
    """Unix time of the last start of the grid."""
    git_commit: str
    git_dirty: bool
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    base_language: str
    target_language: str
    benchmarks: tuple[str, ...]
    """Paths of the benchmarks' manifests without suffix, the main one first."""
    cells: tuple[CellRecord, ...]

    deciding_metric: str
    """Metric on which claims about open questions are decided (`ReportConfig`)."""
    common: Mapping[str, AxisValue]
    """Configuration fields in which all cells agree, by dotted path."""
    registration: Registration | None
    """Registration of the hypotheses; None if the grid has none."""
    changed: Mapping[str, AxisValue] = field(default_factory=dict)
    """Those of `common` that the command changed (`--set`)."""

    @property
    def name(self) -> str:
        """Name of the grid's folder."""
        return self.folder.name

    def stages(self) -> list[StageRecord]:
        """Return every stage run once, in pipeline order."""
        seen = {s.address: s for cell in self.cells for s in cell.stages.values()}
        return sorted(
            seen.values(), key=lambda s: (_pipeline_position(s.kind), s.started or 9e18, s.address)
        )

    def cells_of(self, address: str) -> list[CellRecord]:
        """Return the cells that use a stage run."""
        return [c for c in self.cells if any(s.address == address for s in c.stages.values())]


def grid_folder(root: Path, experiment: str, profile: str, name: str = "") -> Path:
    """Return the folder of a grid's description."""
    return root / "grids" / (name or f"{experiment}-{profile}")


def load_grid(root: Path, experiment: str, profile: str, name: str = "") -> GridRecord:
    """Read a grid and all its stage runs.

    Args:
        root: Output folder of all runs.
        experiment: Name of the experiment.
        profile: Profile of the grid.
        name: Name of the grid's folder, if it is not EXPERIMENT-PROFILE.

    Raises:
        DataError: If the grid was never run under this root, or its file is damaged.
    """
    folder = grid_folder(root, experiment, profile, name)
    if not (folder / "grid.json").is_file():
        found = sorted(p.parent.name for p in root.glob("grids/*/grid.json"))
        raise DataError(
            f"no grid '{folder.name}' under {root}; found: {', '.join(found) or 'none'}. "
            f"Run it first: python -m experiments.run --exp {experiment} --profile {profile}"
        )
    raw = read_grid_json(folder)
    with reading(folder / "grid.json", fix="run the grid again, which writes it"):
        return _parse_grid(raw, folder, root, experiment=experiment, profile=profile)


def _parse_grid(
    raw: Mapping[str, Any], folder: Path, root: Path, *, experiment: str, profile: str
) -> GridRecord:
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
        benchmarks=tuple(raw.get("benchmarks") or ()),
        deciding_metric=raw.get("deciding_metric") or "vqa",
        common=raw.get("common") or {},
        changed=_changed_fields(raw),
        registration=Registration.from_json(raw["registration"])
        if raw.get("registration")
        else None,
        cells=tuple(_parse_cell(root / "store", cell) for cell in raw["cells"]),
    )


def _changed_fields(raw: Mapping[str, Any]) -> dict[str, AxisValue]:
    """Return the fields that the overrides of the command set, also those inside of a section."""
    paths = [one.partition("=")[0].strip() for one in raw.get("overrides") or ()]
    return {
        name: value
        for name, value in (raw.get("common") or {}).items()
        if any(name == path or name.startswith(f"{path}.") for path in paths)
    }


def _parse_cell(store: Path, raw: Mapping[str, Any]) -> CellRecord:
    stages = {kind: load_stage(store / kind / addr) for kind, addr in raw["stages"].items()}
    share = raw["axes"].get("target_share") if "target_share" not in raw else raw["target_share"]
    return CellRecord(
        cell_id=raw["cell_id"],
        axes=raw["axes"],
        stages=stages,
        target_share=float(share or 0.0),
        fields=raw.get("fields") or {},
        training_sizes={
            kind: TrainingSize(**size) for kind, size in (raw.get("training_sizes") or {}).items()
        },
    )


def _pipeline_position(kind: str) -> int:
    return _STAGE_ORDER.index(kind) if kind in _STAGE_ORDER else len(_STAGE_ORDER)

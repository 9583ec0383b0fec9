"""Find and load trained cells, including their vision tower, for chat and export."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from configuration.run_config import RunConfig
from core.errors import CheckpointError, ConfigError, unknown_name
from models.language.adapters import merge_adapters, tune
from pipeline.grid_plan import GridPlan
from pipeline.stages.builders import VlmParts, build_vlm
from pipeline.stages.graph import StageNode
from pipeline.stages.specs import EvaluateSpec, StageKind, TrainSpec
from pipeline.stages.training import WEIGHTS, load_parts
from pipeline.store.store import StageFolder, Store

_TRAINED = (StageKind.ALIGN, StageKind.INSTRUCT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedCell:
    """A cell of a grid and the store of its stage runs."""

    cell_id: str
    config: RunConfig
    nodes: dict[StageKind, StageNode]
    """Stage runs of the cell."""
    root: Path

    @property
    def evaluate_spec(self) -> EvaluateSpec:
        """Specification of the evaluation, which includes the model after the last stage."""
        spec = self.nodes[StageKind.EVALUATE].spec
        if not isinstance(spec, EvaluateSpec):
            raise TypeError(f"evaluation has a {type(spec).__name__}")
        return spec

    @property
    def train_specs(self) -> dict[StageKind, TrainSpec]:
        """Specifications of the training stages, in order."""
        specs = {kind: self.nodes[kind].spec for kind in _TRAINED if kind in self.nodes}
        return {kind: spec for kind, spec in specs.items() if isinstance(spec, TrainSpec)}

    def folder(self, kind: StageKind) -> StageFolder:
        """Return the folder of a stage run."""
        return Store(self.root).folder(kind.value, self.nodes[kind].address)


def find_cells(plan: GridPlan, names: Sequence[str], *, root: Path) -> list[TrainedCell]:
    """Return the cells with these ids, or with ids that contain these names.

    Args:
        plan: Plan of the grid that was run.
        names: Cell ids or unique parts of them.
        root: Output folder of the run.

    Raises:
        ConfigError: If no cell or several cells match a name; lists the candidates.
    """
    ids = [cell.cell_id for cell in plan.cells]
    return [_get_cell(plan, _match_cell_id(name, ids), root) for name in names]


def load_cell(cell: TrainedCell, device: torch.device) -> VlmParts:
    """Load the model after its last stage in fp32, in evaluation mode, with merged adapters.

    Raises:
        CheckpointError: If a stage is not finished, or its result is damaged.
    """
    specs, spec = cell.train_specs, cell.evaluate_spec
    for kind in specs:
        if not cell.folder(kind).is_done():
            raise CheckpointError(
                f"stage '{kind}' of cell '{cell.cell_id}' is not finished in {cell.root}; run it: "
                f"python -m experiments.run --only {cell.cell_id} (with the same --exp, --profile "
                "and --set)"
            )
    parts = build_vlm(spec.model, cache=None, seed=0)
    language_model = parts.model.language_model
    tune(language_model, spec.tuning, seed=0, learns=StageKind.INSTRUCT in specs)
    for kind in specs:  # in stage order: a later stage replaces weights of an earlier one
        load_parts(parts.model, cell.folder(kind).result / WEIGHTS)
    merge_adapters(language_model)
    parts.model.eval().to(device)
    return parts


def _match_cell_id(name: str, ids: Sequence[str]) -> str:
    found = [cell_id for cell_id in ids if name in cell_id]
    if name in ids:
        return name
    if not found:
        raise ConfigError(
            unknown_name("cell", name, ids, fix="--run takes a cell id or a unique part of it.")
        )
    if len(found) > 1:
        raise ConfigError(f"--run {name} matches {len(found)} cells: {', '.join(found)}; name one")
    return found[0]


def _get_cell(plan: GridPlan, cell_id: str, root: Path) -> TrainedCell:
    config = next(cell.config for cell in plan.cells if cell.cell_id == cell_id)
    addresses = plan.full_graph.cells[cell_id]
    nodes = {StageKind(kind): plan.full_graph.nodes[address] for kind, address in addresses.items()}
    return TrainedCell(cell_id=cell_id, config=config, nodes=nodes, root=root)

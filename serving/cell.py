"""Find and load trained cells, including their vision tower, for chat and export."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from configuration.run_config import RunConfig
from core.errors import CheckpointError, ConfigError, unknown_name
from pipeline.assemble_trained import ModelParts, assemble_trained
from pipeline.graph import StageNode
from pipeline.grid_plan import GridPlan
from pipeline.stages.align import AlignStage
from pipeline.stages.evaluate import EvaluateStage
from pipeline.stages.instruct import InstructStage
from pipeline.stages.training import TrainingStage
from pipeline.store.store import StageFolder, Store

_TRAINING_KINDS = (AlignStage.kind, InstructStage.kind)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedCell:
    """A cell of a grid and the store of its stage runs."""

    cell_id: str
    config: RunConfig
    nodes: dict[str, StageNode]
    """Stage runs of the cell."""
    root: Path

    @property
    def evaluation(self) -> EvaluateStage:
        """The evaluation, which builds the model of the last training stage."""
        stage = self.nodes[EvaluateStage.kind].stage
        if not isinstance(stage, EvaluateStage):
            raise TypeError(f"expected an EvaluateStage, got {type(stage).__name__}")
        return stage

    @property
    def training_stages(self) -> dict[str, TrainingStage]:
        """The training stages by kind, in order."""
        stages = {kind: self.nodes[kind].stage for kind in _TRAINING_KINDS if kind in self.nodes}
        return {kind: stage for kind, stage in stages.items() if isinstance(stage, TrainingStage)}

    def folder(self, kind: str) -> StageFolder:
        """Return the folder of a stage run."""
        return Store(self.root).folder(kind, self.nodes[kind].address)


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


def load_cell(cell: TrainedCell, device: torch.device, *, is_merged: bool = True) -> ModelParts:
    """Load the model after its last stage in fp32, in evaluation mode.

    Args:
        cell: A trained cell.
        device: Where the weights go.
        is_merged: Merge adapters into the language model.

    Raises:
        CheckpointError: If a stage is not finished, or its result is damaged.
    """
    evaluation = cell.evaluation
    for kind in cell.training_stages:
        if not cell.folder(kind).is_done():
            raise CheckpointError(
                f"stage '{kind}' of cell '{cell.cell_id}' is not finished in {cell.root}; run it: "
                f"python -m experiments.run --only {cell.cell_id} (with the same --exp, --profile "
                "and --set)"
            )
    last = list(cell.training_stages)[-1]
    parts = assemble_trained(
        evaluation.model,
        features=None,
        tuning=evaluation.tuning,
        policy=evaluation.policy,
        device=device,
        trained=[cell.folder(last).result],
        is_merged=is_merged,
    )
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
    nodes = {kind: plan.full_graph.nodes[address] for kind, address in addresses.items()}
    return TrainedCell(cell_id=cell_id, config=config, nodes=nodes, root=root)

"""Finding and loading one trained cell, whole with its tower: for export, terminal and page."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from configuration.run_config import RunConfig
from core.errors import CheckpointError, ConfigError, unknown_name
from experiments.planning import Plan, make_plan
from models.language.adapters import merge_adapters, tune
from pipeline.stages.builders import VlmParts, build_vlm
from pipeline.stages.graph import StageNode
from pipeline.stages.specs import EvaluateSpec, StageKind, TrainSpec
from pipeline.stages.training import WEIGHTS, load_parts
from pipeline.store.store import StageFolder, Store

_TRAINED = (StageKind.ALIGN, StageKind.INSTRUCT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedCell:
    """One cell of a grid whose training is done."""

    cell_id: str
    config: RunConfig
    nodes: dict[StageKind, StageNode]
    """Its stage runs."""
    root: Path

    @property
    def evaluate_spec(self) -> EvaluateSpec:
        """What the evaluation builds: the model of the last stage."""
        spec = self.nodes[StageKind.EVALUATE].spec
        if not isinstance(spec, EvaluateSpec):
            raise TypeError(f"evaluation has a {type(spec).__name__}")
        return spec

    @property
    def train_specs(self) -> dict[StageKind, TrainSpec]:
        """Its training stages, in order."""
        specs = {kind: self.nodes[kind].spec for kind in _TRAINED if kind in self.nodes}
        return {kind: spec for kind, spec in specs.items() if isinstance(spec, TrainSpec)}

    def folder(self, kind: StageKind) -> StageFolder:
        """Where a stage run lies."""
        return Store(self.root).folder(kind.value, self.nodes[kind].address)


def add_grid_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which grid: those of `experiments.run`, with their meaning."""
    add = parser.add_argument
    add("--exp", default="mix_ablation", help="experiment (default: mix_ablation)")
    add("--profile", default="embedded", help="configuration it ran with (default: embedded)")
    add("--root", type=Path, default=Path("mlruns"), help="where results lie (default: mlruns)")
    add("--seeds", type=int, default=1, help="seeds per cell it ran with (default: 1)")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="A.B=C",
        dest="overrides",
        help="the changed values it ran with",
    )


def find_cells(options: argparse.Namespace, names: Sequence[str]) -> list[TrainedCell]:
    """The cells of these ids, or of ids that contain a name.

    Raises:
        ConfigError: no cell or several for a name, with the candidates.
    """
    plan = make_plan(argparse.Namespace(**{**vars(options), "only": []}))
    ids = [cell.cell_id for cell in plan.cells]
    return [_cell(plan, _match(name, ids), options.root) for name in names]


def load_cell(cell: TrainedCell, device: torch.device) -> VlmParts:
    """The model after its last stage, in fp32 on a device, ready to answer; adapters are merged.

    Raises:
        CheckpointError: a stage has not run to its end, or its result is damaged.
    """
    specs, spec = cell.train_specs, cell.evaluate_spec
    for kind in specs:
        if not cell.folder(kind).is_done():
            raise CheckpointError(
                f"{kind} of '{cell.cell_id}' has not run to its end under {cell.root}; run it: "
                f"python -m experiments.run --only {cell.cell_id} (with the same --exp, --profile "
                "and --set)"
            )
    parts = build_vlm(spec.model, cache=None, seed=0)
    language_model = parts.model.language_model
    tune(language_model, spec.tuning, seed=0, learns=StageKind.INSTRUCT in specs)
    for kind in specs:  # stage 2 holds all that it trained: the later file wins
        load_parts(parts.model, cell.folder(kind).result / WEIGHTS)
    merge_adapters(language_model)
    parts.model.eval().to(device)
    return parts


def _match(name: str, ids: Sequence[str]) -> str:
    found = [cell_id for cell_id in ids if name in cell_id]
    if name in ids:
        return name
    if not found:
        raise ConfigError(unknown_name("cell", name, ids, fix="--run takes an id or part of one."))
    if len(found) > 1:
        raise ConfigError(f"--run {name} fits {len(found)} cells: {', '.join(found)}; name one")
    return found[0]


def _cell(plan: Plan, cell_id: str, root: Path) -> TrainedCell:
    config = next(cell.config for cell in plan.cells if cell.cell_id == cell_id)
    addresses = plan.whole.cells[cell_id]
    nodes = {StageKind(kind): plan.whole.nodes[address] for kind, address in addresses.items()}
    return TrainedCell(cell_id=cell_id, config=config, nodes=nodes, root=root)

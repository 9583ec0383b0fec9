"""From the command line to something that can run: a graph and what to do when it is done."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from configuration.axes import GridCell, flatten, name_cells
from configuration.run_config import RunConfig
from configuration.trainer import TrainerConfig
from core.config import load_config
from core.errors import ConfigError, unknown_name
from experiments.registry import get_experiment, is_grid, select, with_seeds
from pipeline.stages.graph import Graph, build_graph
from pipeline.store.store import Store

CONFIGS = Path("configs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a command will run."""

    graph: Graph
    """What this command runs."""
    whole: Graph
    """The whole grid, of which `--only` runs a part."""
    trainer: TrainerConfig
    cells: tuple[GridCell, ...]
    """Cells of the whole grid; empty for a recipe that trains no cells."""
    finish: Callable[[Store], Path]
    """Writes what people look at in the end and returns its path."""


def make_plan(args: argparse.Namespace) -> Plan:
    """The plan of `--exp`.

    Raises:
        ConfigError: an unknown experiment, profile, key or cell.
    """
    experiment = get_experiment(args.exp)
    if not is_grid(experiment):
        return _recipe_plan(args, experiment)
    cells = name_cells(_load_configs(args, experiment))

    def report(store: Store) -> Path:
        from reporting.build import build_report  # matplotlib is slow to import

        return build_report(args.exp, profile=args.profile, root=store.root)

    whole = build_graph(cells, is_plan=getattr(args, "dry_run", False))
    chosen = {cell.cell_id for cell in select(cells, args.only)}
    return Plan(
        graph=whole.only(chosen),
        whole=whole,
        trainer=cells[0].config.trainer,
        cells=cells,
        finish=report,
    )


def _load_configs(args: argparse.Namespace, experiment: ModuleType) -> list[RunConfig]:
    profiles = {path.stem: path for path in CONFIGS.glob("*.yaml")}
    if args.profile not in profiles:
        fix = "" if profiles else "Run the command from the repository's root."
        raise ConfigError(unknown_name("profile", args.profile, profiles, fix=fix))
    base = load_config(RunConfig, profiles[args.profile], overrides=args.overrides)
    configs: list[RunConfig] = experiment.cells(base)
    _check_overrides(args, base, configs)
    return with_seeds(configs, args.seeds)


def _check_overrides(args: argparse.Namespace, base: RunConfig, configs: list[RunConfig]) -> None:
    """Reject an override of a field that the experiment sets itself: it would have no effect.

    Raises:
        ConfigError: If an experiment replaces an overridden value.
    """
    given, cells = flatten(base), [flatten(config) for config in configs]
    for override in args.overrides:
        path = override.partition("=")[0]
        if any(path in cell and cell[path] != given.get(path) for cell in cells):
            raise ConfigError(
                f"--set {override}: experiment '{args.exp}' sets {path} itself; choose cells with "
                "--only, or write an experiment of your own"
            )


def _recipe_plan(args: argparse.Namespace, recipe: ModuleType) -> Plan:
    config = recipe.load(args.overrides)
    graph = recipe.build_graph(config)
    return Plan(
        graph=graph,
        whole=graph,
        trainer=config.trainer,
        cells=(),
        finish=lambda store: recipe.publish(config, graph, store),
    )

"""From the command line to something that can run: a graph and what to do when it is done."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

from core.config import load_config
from core.errors import ConfigError, unknown_name
from experiments import embedded_backbones
from experiments.graph import Graph, build_graph
from experiments.grid import EXPERIMENTS, get_experiment, select, with_seeds
from experiments.schema import RunConfig, TrainerConfig
from experiments.store import Store

CONFIGS = Path("configs")
RECIPES = {"embedded_backbones": embedded_backbones}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a command will run."""

    graph: Graph
    trainer: TrainerConfig
    cells: tuple[RunConfig, ...]
    """Empty for a recipe that trains no cells."""
    finish: Callable[[Store], Path]
    """Writes what people look at in the end and returns its path."""


def make_plan(args: argparse.Namespace) -> Plan:
    """The plan of `--exp`.

    Raises:
        ConfigError: an unknown experiment, profile, key or cell.
    """
    if args.exp in RECIPES:
        return _recipe_plan(args)
    cells = tuple(_load_cells(args))

    def report(store: Store) -> Path:
        from experiments.report import build_report  # plots are heavy, and only needed at the end

        return build_report(args.exp, profile=args.profile, root=store.root)

    return Plan(
        graph=build_graph(cells),
        trainer=cells[0].trainer,
        cells=cells,
        finish=report,
    )


def questions() -> dict[str, str]:
    """Name of every experiment -> what it asks."""
    recipes = {
        name: (module.__doc__ or "").strip().splitlines()[0] for name, module in RECIPES.items()
    }
    return {name: experiment.question for name, experiment in EXPERIMENTS.items()} | recipes


def _load_cells(args: argparse.Namespace) -> list[RunConfig]:
    experiment = get_experiment(args.exp, also=RECIPES)
    profiles = {path.stem: path for path in CONFIGS.glob("*.yaml")}
    if args.profile not in profiles:
        fix = "" if profiles else "Run the command from the repository's root."
        raise ConfigError(unknown_name("profile", args.profile, profiles, fix=fix))
    base = load_config(RunConfig, profiles[args.profile], overrides=args.overrides)
    return select(with_seeds(experiment.cells(base), args.seeds), args.only)


def _recipe_plan(args: argparse.Namespace) -> Plan:
    recipe = RECIPES[args.exp]
    config = recipe.load(args.overrides)
    graph = recipe.build_graph(config)
    return Plan(
        graph=graph,
        trainer=config.trainer,
        cells=(),
        finish=lambda store: recipe.publish(config, graph, store),
    )

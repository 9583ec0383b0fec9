"""From the command line to something that can run: a graph and what to do when it is done."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

from configuration.run_config import RunConfig
from configuration.trainer import TrainerConfig
from core.config import load_config
from core.errors import ConfigError, unknown_name
from experiments.grids import embedded_backbones
from experiments.registry import EXPERIMENTS, get_experiment, select, with_seeds
from pipeline.stages.graph import Graph, build_graph
from pipeline.store.store import Store

CONFIGS = Path("configs")
RECIPES = {"embedded_backbones": embedded_backbones}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a command will run."""

    graph: Graph
    """What this command runs."""
    whole: Graph
    """The whole grid, of which `--only` runs a part."""
    trainer: TrainerConfig
    cells: tuple[RunConfig, ...]
    """Of the whole grid; empty for a recipe that trains no cells."""
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

    whole = build_graph(cells, is_plan=getattr(args, "dry_run", False))
    chosen = {config.cell.cell_id for config in select(cells, args.only)}
    return Plan(
        graph=whole.only(chosen),
        whole=whole,
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
    cells = experiment.cells(base)
    _check_axes(args, base, cells)
    return with_seeds(cells, args.seeds)


def _check_axes(args: argparse.Namespace, base: RunConfig, cells: list[RunConfig]) -> None:
    """Refuse a value for an axis that the experiment varies: it would change nothing.

    Raises:
        ConfigError: with the axis and what to do.
    """
    for override in args.overrides:
        section, _, axis = override.partition("=")[0].partition(".")
        if section != "cell":
            continue
        given = getattr(base.cell, axis)
        if any(getattr(config.cell, axis) != given for config in cells):
            raise ConfigError(
                f"--set {override}: experiment '{args.exp}' varies cell.{axis} itself; choose "
                "cells with --only"
            )


def _recipe_plan(args: argparse.Namespace) -> Plan:
    recipe = RECIPES[args.exp]
    config = recipe.load(args.overrides)
    graph = recipe.build_graph(config)
    return Plan(
        graph=graph,
        whole=graph,
        trainer=config.trainer,
        cells=(),
        finish=lambda store: recipe.publish(config, graph, store),
    )

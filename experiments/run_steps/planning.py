"""Turn a grid request into a plan: load the configuration, make the cells, build the graph."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from configuration.axes import GridCell, flatten, name_cells
from configuration.grid_request import GridRequest
from configuration.mixture import check_second_language
from configuration.replacing import replace_fields
from configuration.run_config import RunConfig
from configuration.source_places import with_language_tasks
from core.config import load_config, to_plain
from core.errors import ConfigError, TooShortError, unknown_name
from core.precision import Precision
from experiments.experiment_files import make_cells
from experiments.registry import get_experiment, is_grid, select, with_seeds
from pipeline.graph import Graph, build_graph
from pipeline.grid_plan import GridPlan
from pipeline.store.store import Store
from pipeline.training_data_checks import settings_for_rows

CONFIGS = Path("configs")


def make_plan(request: GridRequest) -> GridPlan:
    """Build the plan of a request.

    Raises:
        ConfigError: If the experiment, the profile, a configuration key or a cell is unknown.
        DataError: If a dataset is missing and the request is not a dry run.
    """
    experiment = get_experiment(request.experiment, request.experiment_file)
    if not is_grid(experiment):
        return _plan_recipe(request, experiment)
    cells, full_graph, adapted = _fit_to_data(request, experiment)

    def publish(store: Store) -> Path:
        from reporting.build import build_report  # matplotlib and MLflow are slow to import
        from reporting.tracking.registration import tracked_registration

        return build_report(
            request.experiment,
            profile=request.profile,
            name=request.name,
            root=store.root,
            tracked=tracked_registration(
                store.root,
                request.grid_name,
                experiment_name=f"{request.experiment}-{request.profile}",
            ),
        )

    selected = {cell.cell_id for cell in select(cells, request.only)}
    return GridPlan(
        graph=full_graph.only(selected),
        full_graph=full_graph,
        trainer=cells[0].config.trainer,
        cells=cells,
        hypotheses=getattr(experiment, "hypotheses", {}),
        publish=publish,
        adapted=tuple(adapted),
        note=getattr(experiment, "note", ""),
    )


def _fit_to_data(
    request: GridRequest, experiment: ModuleType
) -> tuple[tuple[GridCell, ...], Graph, list[str]]:
    """Return the cells, their graph, and the values that follow from the data.

    With `data.fit_lengths`, rows and replies that are too short for the data become as long as
    needed, except where the user has set their length. This concerns all cells of the grid,
    whatever the command selects, so that the same cells always have the same lengths.
    """
    profile = _load_profile(request)
    base, left_out = with_language_tasks(profile)
    given = {override.partition("=")[0] for override in request.overrides}
    fitted: dict[str, str] = {}
    while True:
        configs = _make_configs(request, experiment, base)
        cells = name_cells(configs)
        _check_trainers(cells)
        try:
            graph = build_graph(cells, is_plan=request.is_dry_run)
            enough = _settings_for_rows(graph, request) if base.data.fit_lengths else ()
        except TooShortError as error:
            enough = error.settings
            if not base.data.fit_lengths or not _new(enough, given | fitted.keys()):
                raise
        new = _new(enough, given | fitted.keys())
        if not new:
            return cells, graph, _describe_adapted(profile, fitted, left_out)
        fitted |= new
        base = replace_fields(base, {path: int(value) for path, value in new.items()})


def _settings_for_rows(graph: Graph, request: GridRequest) -> Sequence[str]:
    return settings_for_rows(graph, request.root / "cache" / "lengths")


def _new(settings: Sequence[str], known: Collection[str]) -> dict[str, str]:
    """Return path -> value of the overrides of fields that have no other value yet."""
    pairs = (setting.partition("=")[::2] for setting in settings)
    return {path: value for path, value in pairs if path not in known}


def _describe_adapted(
    profile: RunConfig, fitted: Mapping[str, str], left_out: Sequence[str]
) -> list[str]:
    lines = []
    if fitted:
        before = flatten(profile)
        values = ", ".join(f"{path}={value} ({before[path]})" for path, value in fitted.items())
        lines.append(f"As long as the data need (in the profile): {values}")
    if left_out:
        tasks = ", ".join(left_out)
        lines.append(f"Text-only tasks without data are left out: {tasks}")
    return lines


def _load_profile(request: GridRequest) -> RunConfig:
    profiles = {path.stem: path for path in CONFIGS.glob("*.yaml")}
    if request.profile not in profiles:
        fix = "" if profiles else "Run the command from the root of the repository."
        raise ConfigError(unknown_name("profile", request.profile, profiles, fix=fix))
    return load_config(RunConfig, profiles[request.profile], overrides=request.overrides)


def _make_configs(request: GridRequest, experiment: ModuleType, base: RunConfig) -> list[RunConfig]:
    configs = make_cells(experiment, base)
    _check_overrides(request, base, configs)
    check_second_language(configs)
    return with_seeds(configs, request.num_seeds, request.replicate)


def _check_trainers(cells: Sequence[GridCell]) -> None:
    """Reject cells with different execution settings: a grid is run with those of its first cell.

    Raises:
        ConfigError: If a field of `trainer` other than the precision differs.
    """
    settings = [
        to_plain(dataclasses.replace(cell.config.trainer, precision=Precision.FLOAT32))
        for cell in cells
    ]
    for name, value in settings[0].items():
        if any(other[name] != value for other in settings):
            raise ConfigError(
                f"trainer.{name} differs between cells, but it says how the whole grid runs, and "
                "does not change results; give all cells the same value (--set)"
            )


def _check_overrides(request: GridRequest, base: RunConfig, configs: list[RunConfig]) -> None:
    """Reject an override of a field that the experiment sets itself: it would have no effect.

    Raises:
        ConfigError: If an experiment replaces an overridden value.
    """
    given, cells = flatten(base), [flatten(config) for config in configs]
    for override in request.overrides:
        path = override.partition("=")[0]
        if any(path in cell and cell[path] != given.get(path) for cell in cells):
            raise ConfigError(
                f"--set {override}: experiment '{request.experiment}' sets {path} itself; select "
                "cells with --only, or write an experiment of your own"
            )


def _plan_recipe(request: GridRequest, recipe: ModuleType) -> GridPlan:
    config = recipe.load(request.overrides)
    full_graph: Graph = recipe.build_graph(config)
    graph = full_graph.only_titled(request.only) if request.only else full_graph
    if not graph.nodes:
        titles = sorted(node.title for node in full_graph.nodes.values())
        raise ConfigError(
            f"--only {' '.join(request.only)}: no stage run of '{request.experiment}' has one of "
            f"the texts in its title; titles: {', '.join(titles)}"
        )
    return GridPlan(
        graph=graph,
        full_graph=full_graph,
        trainer=config.trainer,
        cells=(),
        hypotheses={},
        publish=lambda store: recipe.publish(config, graph, store),
    )
